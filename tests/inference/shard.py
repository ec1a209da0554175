"""A shard that serves the windows it is given, and may be told to misbehave; for what a real one never does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from isthmus.context.v1 import context_service_pb2, context_service_pb2_grpc, window_pb2
from redis.asyncio import Redis

from services.config import Settings
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member
from services.router import STORE
from services.rpc import GrpcServer
from tests.inference.items import checkpoint

ITEMS_A_MESSAGE = 3


class WindowShard(context_service_pb2_grpc.ContextServiceServicer):
    """ReadWindow over `windows`, by session id; `requests` are those that came."""

    def __init__(self, settings: Settings, valkey: Redis, member_id: str) -> None:
        self._context = RoomContext(settings, member_id, "127.0.0.1:0")
        self._valkey = valkey
        self._server = GrpcServer(self._context)
        self._announcer: Announcer | None = None
        self.windows: dict[str, list[window_pb2.WindowItem]] = {}
        self.requests: list[context_service_pb2.ReadWindowRequest] = []
        # Ends a stream after so many messages, as a shard does that dies.
        self.messages_until_death: int | None = None

    async def start(self) -> None:
        register = context_service_pb2_grpc.add_ContextServiceServicer_to_server
        self._server.add(register, self, context_service_pb2.DESCRIPTOR)
        address = await self._server.start()
        self._context.lifecycle.move(State.READY)
        member = Member(self._context.member_id, STORE, address)
        settings = self._context.settings.membership
        self._announcer = Announcer(self._valkey, settings, member, self._context.lifecycle)
        await self._announcer.start()

    async def stop(self) -> None:
        if self._announcer is not None:
            await self._announcer.stop()
        await self._server.stop()

    async def ReadWindow(  # noqa: N802
        self, request: context_service_pb2.ReadWindowRequest, context: Any
    ) -> AsyncIterator[context_service_pb2.ReadWindowResponse]:
        self.requests.append(request)
        items = self.windows[request.key.session]
        start = max((each.item_count for each in request.have if _on_chain(items, each)), default=0)
        for count, first in enumerate(range(start, max(len(items), start + 1), ITEMS_A_MESSAGE), start=1):
            response = context_service_pb2.ReadWindowResponse(items=items[first : first + ITEMS_A_MESSAGE])
            if first == start:
                getattr(response, "from").CopyFrom(checkpoint(items[:start]))
            yield response
            if count == self.messages_until_death:
                self.messages_until_death = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the shard dies")


async def serve_windows(settings: Settings, valkey: Redis, member_id: str = "shard-1") -> WindowShard:
    """A started shard. The stubs call every rpc of the contract abstract; this one needs a single one."""
    shard = WindowShard(settings, valkey, member_id)  # type: ignore[abstract]
    await shard.start()
    return shard


def _on_chain(items: Sequence[window_pb2.WindowItem], point: window_pb2.Checkpoint) -> bool:
    return point.item_count <= len(items) and checkpoint(items[: point.item_count]).digest == point.digest
