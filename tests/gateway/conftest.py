"""A mesh with the scripted engine, and a client of its gRPC edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.config import Settings
from tests.conftest import tokenizer_cache
from tests.gateway.client import Client, connected
from tests.support.mesh import Mesh, changed, running_mesh

__all__ = ["client", "mesh", "quick", "slow", "tokenizer_cache"]


@pytest.fixture
def quick(settings: Settings, tokenizer_cache: Path) -> Settings:
    """Replies of 24 tokens, all at once."""
    return changed(settings, "inference", engine="scripted", cache_dir=tokenizer_cache, scripted_output_tokens=24)


@pytest.fixture
def slow(quick: Settings) -> Settings:
    """Replies that take 30 s unless somebody stops them, and waits short enough for a test."""
    paced = changed(quick, "inference", scripted_output_tokens=600, scripted_tokens_per_s=20.0)
    return changed(paced, "gateway", lease_ms=600, upstream_wait_ms_max=2_000)


@pytest_asyncio.fixture
async def mesh(quick: Settings) -> AsyncIterator[Mesh]:
    """Two shards, one quick replica, one gateway."""
    async with running_mesh(quick, shards=2, replicas=1) as running:
        yield running


@pytest_asyncio.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    """A client of the quick mesh."""
    async with connected(mesh.grpc_target) as connection:
        yield connection
