"""Fixtures for every test: a real Valkey, fresh for each test, and settings that point to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.asyncio import Redis

from services.config import Settings, load_settings
from services.valkey import connect
from tests.support.spans import recorder
from tests.support.valkey_server import ValkeyServer

# A loaded machine is slow, which is no failure of what is tested.
hypothesis.settings.register_profile("isthmus", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("isthmus")


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


@pytest.fixture
def settings(valkey_server: ValkeyServer, tmp_path: Path) -> Settings:
    """Settings on the test's Valkey, with heartbeats fast enough for a test to wait for."""
    return load_settings(
        mesh={"home": tmp_path / "home"},
        valkey={"url": valkey_server.url},
        membership={"heartbeat_interval_ms": 50, "member_ttl_ms": 500},
    )


@pytest_asyncio.fixture
async def valkey(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the test's Valkey."""
    client = connect(settings.valkey)
    yield client
    await client.aclose()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Every span that this process has finished since the test began, whichever room made it."""
    return recorder()
