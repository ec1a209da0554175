"""A whole mesh with the scripted engine, and OpenAI's own SDK pointed at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from services.config import Settings
from tests.support.mesh import Mesh, running_mesh


@pytest.fixture
def engine() -> dict[str, Any]:
    """The scripted engine's pace; a module or test may have its own."""
    return {}


@pytest.fixture
def bounds() -> dict[str, Any]:
    """Settings of the gateway that a test wants otherwise."""
    return {}


@pytest.fixture
async def mesh(settings: Settings, engine: dict[str, Any], bounds: dict[str, Any]) -> AsyncIterator[Mesh]:
    """One shard, one replica, one gateway."""
    inference = settings.inference.model_copy(update={"engine": "scripted", **engine})
    gateway = settings.gateway.model_copy(update=bounds)
    changed = settings.model_copy(update={"inference": inference, "gateway": gateway})
    async with running_mesh(changed, shards=1) as mesh:
        yield mesh


@pytest.fixture
async def sdk(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    """The SDK as anybody has it, but that it does not try again by itself."""
    async with AsyncOpenAI(base_url=f"{mesh.http_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP, for what the SDK would never send."""
    async with httpx.AsyncClient(base_url=mesh.http_url) as client:
        yield client
