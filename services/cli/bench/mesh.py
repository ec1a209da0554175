"""A mesh of the benchmark's own: real processes, the scripted engine, free ports, a home that nobody else uses."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from services.cli.settings import load
from services.config import Settings
from services.supervisor.local import held_home, plan_mesh, run_mesh
from services.supervisor.state import MeshState
from services.supervisor.supervisor import Supervisor

_FREE_PORT = "127.0.0.1:0"


Sections: TypeAlias = Mapping[str, Mapping[str, object]]


async def with_mesh(
    home: Path | None, work: Callable[[MeshState], Awaitable[None]], sections: Sections | None = None
) -> None:
    """Starts a mesh on the home, or on one that is removed afterwards, does the work, and stops it.

    `sections` are settings of the benchmark's own.
    """
    if home is not None:
        await _run(home, work, sections or {})
        return
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        await _run(Path(folder), work, sections or {})


async def _run(home: Path, work: Callable[[MeshState], Awaitable[None]], sections: Sections) -> None:
    settings = _settings(home, sections)
    with held_home(settings) as (held, mux):
        supervisor = Supervisor(plan_mesh(settings, held), held, settings.supervisor, mux)
        await run_mesh(supervisor, work)


def _settings(home: Path, sections: Sections) -> Settings:
    own: dict[str, dict[str, object]] = {
        "mesh": {"home": home},
        "inference": {"engine": "scripted"},
        # Its clients have no key, whatever the environment says of the mesh that it is for.
        "gateway": {"access": {"mode": "open"}},
        "supervisor": {"grpc": _FREE_PORT, "http": _FREE_PORT},
    }
    return load(None, **{name: {**own.get(name, {}), **sections.get(name, {})} for name in {*own, *sections}})
