"""Shards in this process, on the test's Valkey, and callers of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import grpc
import pytest_asyncio
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub

from context_store.room import ContextStoreRoom
from services.config import Settings
from services.lifecycle import RoomContext
from tests.context_store.client import StoreClient

StartShard = Callable[..., Awaitable[StoreClient]]


@pytest_asyncio.fixture
async def start_shard(settings: Settings) -> AsyncIterator[StartShard]:
    """Starts one more shard and returns a caller of it. `settings` of its own if given."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start(own: Settings = settings) -> StoreClient:
            nonlocal count
            count += 1
            room = ContextStoreRoom(RoomContext(own, f"store-{count}", "127.0.0.1:0"))
            stack.push_async_callback(room.stop)
            await room.start()
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(room.address))
            return StoreClient(ContextServiceStub(channel))

        yield start


@pytest_asyncio.fixture
async def store(start_shard: StartShard) -> StoreClient:
    """A caller of a single shard."""
    return await start_shard()
