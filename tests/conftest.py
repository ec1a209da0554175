"""Fixtures for every test: a real Valkey, fresh for each test, and settings that point to it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import hypothesis
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.asyncio import Redis

from services.config import Settings, load_settings
from services.valkey import connect
from tests.support.leaks import leaks_of
from tests.support.ports import keep_apart
from tests.support.spans import recorder
from tests.support.tokenizers import read_once
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.valkey_server import ValkeyServer

# A loaded machine is slow, which is no failure of what is tested.
hypothesis.settings.register_profile("isthmus", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("isthmus")


def pytest_configure(config: pytest.Config) -> None:
    """Names the marks of `no_leaks`; keeps what tests in other processes use apart."""
    keep_apart(os.environ)
    config.addinivalue_line("markers", "foreign_keys(*patterns): keys that the test puts on purpose")
    config.addinivalue_line("markers", "leaves(why): what is left over belongs to what the test takes away")


@pytest.fixture(scope="session", autouse=True)
def tokenizers_are_read_once() -> Iterator[None]:
    """Each replica would read its own anew."""
    with read_once():
        yield


@pytest.fixture(scope="session")
def tokenizer_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of replicas that convert the shipped model's tokenizer, which takes seconds, once for all."""
    # A fixture that is imported elsewhere is another one, of the same folder.
    folder = tmp_path_factory.getbasetemp() / "tokenizer"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def valkey_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The session's Valkey, without a disk: quick to start and to flush."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def valkey_server(valkey_process: ValkeyServer) -> ValkeyServer:
    """The session's Valkey, emptied; a test may kill and start it."""
    valkey_process.flush()
    return valkey_process


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test of a mesh that leaves a key or an object which belongs to nothing.

    `@pytest.mark.foreign_keys("pattern", …)` declares keys that a test puts on purpose, `@pytest.mark.leaves("why")` a
    test that takes away what the rest belonged to.
    """
    yield
    used = [request.node.funcargs.get(name) for name in ("settings", "cluster_settings")]
    foreign = request.node.get_closest_marker("foreign_keys")
    if request.node.get_closest_marker("leaves"):
        return
    found = [
        leak
        for settings in used
        if settings is not None
        for leak in leaks_of(settings.valkey.url, settings.mesh.home / "objects", foreign.args if foreign else ())
    ]
    assert not found, "\n".join(["left over, and explained by no rule of tests/support/leaks.py:", *found])


@pytest.fixture
def settings(valkey_server: ValkeyServer, tmp_path: Path) -> Settings:
    """Settings on the test's Valkey, with heartbeats fast enough for a test to wait for."""
    return load_settings(
        mesh={"home": tmp_path / "home"},
        valkey={"url": valkey_server.url},
        membership={"heartbeat_interval_ms": 50, "member_ttl_ms": 500},
    )


@pytest.fixture(scope="session")
def valkey_cluster_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """The session's cluster, started by the first test that asks for it."""
    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def valkey_cluster(valkey_cluster_processes: ValkeyCluster) -> ValkeyCluster:
    """The session's cluster, whole and empty; a test may kill, freeze and start its nodes."""
    valkey_cluster_processes.flush()
    return valkey_cluster_processes


@pytest.fixture
def cluster_settings(valkey_cluster: ValkeyCluster, tmp_path: Path) -> Settings:
    """Settings on the test's cluster, with heartbeats fast enough for a test to wait for."""
    return load_settings(
        mesh={"home": tmp_path / "home"},
        valkey={"url": valkey_cluster.url},
        membership={"heartbeat_interval_ms": 50, "member_ttl_ms": 500},
    )


@pytest_asyncio.fixture
async def valkey(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the test's Valkey."""
    client = cast("Redis", connect(settings.valkey))
    yield client
    await client.aclose()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Every span that this process has finished since the test began, whichever room made it."""
    return recorder()
