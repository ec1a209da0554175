"""Shards in this process, on the test's Valkey, and callers of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest_asyncio
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub

from context_store.room import ContextStoreRoom
from services.config import Settings
from services.lifecycle import RoomContext
from services.rpc import redirects
from tests.context_store.client import StoreClient

StartShard = Callable[..., Awaitable[StoreClient]]


class SentOn(grpc.aio.UnaryUnaryClientInterceptor):
    """Makes calls as somebody does who was redirected."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), *redirects.METADATA)
        return await continuation(client_call_details._replace(metadata=metadata), request)


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
            # Each serves what it is asked, whoever the ring gives the session to.
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(room.address, interceptors=[SentOn()]))
            return StoreClient(ContextServiceStub(channel))

        yield start


@pytest_asyncio.fixture
async def store(start_shard: StartShard) -> StoreClient:
    """A caller of a single shard."""
    return await start_shard()
