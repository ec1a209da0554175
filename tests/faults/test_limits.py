"""Limits over gateways that are processes: shared while they live, given back when one is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ProcessMesh

LEASE_MS = 3_000
LIMIT, ASKED = 6, 24
ENVIRONMENT = {
    # Replies of half a minute, unless somebody stops them.
    "ISTHMUS_INFERENCE__SCRIPTED_TOKENS_PER_S": "20",
    "ISTHMUS_INFERENCE__SCRIPTED_OUTPUT_TOKENS": "600",
    "ISTHMUS_GATEWAY__LIMITS__LEASE_MS": str(LEASE_MS),
    "ISTHMUS_GATEWAY__LIMITS__USER__TURNS_CONCURRENT": "1",
    "ISTHMUS_GATEWAY__LIMITS__TENANT__REQUESTS_PER_MINUTE": "100000",
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessMesh]:
    """One mesh for the module, with two gateways."""
    home = Path(tmp_path_factory.mktemp("home"))
    mesh = ProcessMesh(home, "--shards", "1", "--gateways", "2", environment=ENVIRONMENT)
    mesh.start()
    yield mesh
    mesh.stop()
