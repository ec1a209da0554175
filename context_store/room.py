"""The context store's process: a shard that serves any session and is fast at those that the ring gives it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from isthmus.context.v1 import context_service_pb2
from isthmus.context.v1.context_service_pb2_grpc import add_ContextServiceServicer_to_server

from context_store.bodies import Bodies
from context_store.events import SegmentEvents
from context_store.loading import Loader
from context_store.log import Log
from context_store.service import ContextService
from context_store.sessions import Sessions
from context_store.store import Store
from services import jobs, valkey
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member
from services.rpc import GrpcServer

_SERVICE: Final = "/isthmus.context.v1.ContextService/"
# What open turns still need from a shard that drains; the ring gives it no new ones.
FINISHING: Final = tuple(
    _SERVICE + method
    for method in (
        "ReplanTurn",
        "RenewTurn",
        "CommitTurn",
        "FailTurn",
        "CancelTurn",
        "GetTurn",
        "WaitTurn",
        "ReadWindow",
        "CommitSummary",
    )
)


class ContextStoreRoom:
    """One shard."""

    name = "context_store"

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._resources = AsyncExitStack()
        self._server: GrpcServer | None = None
        self.address = ""

    async def start(self) -> None:
        """Connects, binds, announces."""
        settings = self._context.settings
        client = valkey.connect(settings.valkey)
        self._resources.push_async_callback(client.aclose)
        queue = await self._resources.enter_async_context(jobs.docket(settings))

        async def enqueue(tenant: str, session: str, first: int, last: int) -> None:
            await jobs.enqueue_segment(queue, tenant, session, first, last)

        events = SegmentEvents(enqueue, settings.store)
        events.start()
        self._resources.push_async_callback(events.stop)
        log = Log(client)
        sessions = Sessions(log, Loader(log, settings.store), settings.store.hot_sessions_bytes_max)
        bodies = Bodies(log, settings.store.bodies_bytes_max)
        store = Store(log, sessions, bodies, events, settings.store, self._context.member_id)
        server = self._server = GrpcServer(self._context, finishing=FINISHING)
        server.add(add_ContextServiceServicer_to_server, ContextService(store), context_service_pb2.DESCRIPTOR)
        self.address = await server.start()
        self._resources.push_async_callback(server.stop)
        member = Member(self._context.member_id, self.name, self.address)
        announcer = Announcer(client, settings.membership, member, self._context.lifecycle)
        await announcer.start()
        self._resources.push_async_callback(announcer.stop)
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        """Refuses what is new; open turns of others go on for as long as rpcs of theirs are open."""
        self._context.lifecycle.move(State.DRAINING)
        if self._server:
            await self._server.drain()

    async def stop(self) -> None:
        """Lets go of everything."""
        await self._resources.aclose()
        self._context.lifecycle.move(State.STOPPED)
