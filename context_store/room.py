"""The context store's process: a shard that serves any session and is fast at those that the ring gives it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Protocol

from isthmus.context.v1 import context_service_pb2
from isthmus.context.v1.context_service_pb2_grpc import add_ContextServiceServicer_to_server

from context_store.hot.loading import Loader
from context_store.hot.moving import Moving
from context_store.hot.ownership import Ownership
from context_store.hot.sessions import Sessions
from context_store.log.bodies import Bodies
from context_store.log.log import Log
from context_store.retrieval.events import DocumentEvents
from context_store.service import ContextService
from context_store.session.deletion import Deletions
from context_store.session.quotas import Usage
from context_store.store import Store
from context_store.tiering.janitor import Janitor
from context_store.tiering.objects import bucket
from context_store.tiering.spill import Spill, filled
from context_store.tiering.tiers import Tiers
from context_store.window.events import SegmentEvents
from services import jobs, valkey
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member, View
from services.router import STORE, Circles
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
        "CommitVectors",
        "ForgetSession",
    )
)


class Background(Protocol):
    """A part with a task of its own."""

    def start(self) -> None:
        """Begins."""

    async def stop(self) -> None:
        """Ends."""


class ContextStoreRoom:
    """One shard."""

    name = STORE

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._settings = context.settings
        self._resources = AsyncExitStack()
        self._server: GrpcServer | None = None
        self._moving: Moving | None = None
        # The parts, once it has started.
        self.store: Store | None = None
        self.address = ""

    async def start(self) -> None:
        """Connects, assembles the parts, binds, announces."""
        client = valkey.connect(self._settings.valkey)
        self._resources.push_async_callback(client.aclose)
        view = View(client, self._settings.membership, rooms=(STORE,))
        await view.start()
        self._resources.push_async_callback(view.stop)
        self._queue = await self._resources.enter_async_context(jobs.docket(self._settings))
        store = self.store = await self._assemble(client, view)
        deletions = Deletions(store, partial(jobs.cancel_segments, self._queue))
        documents = DocumentEvents(partial(jobs.enqueue_document, self._queue), self._settings.store)
        self._run(documents)
        self._moving = Moving(store.sessions, store.log, store.ownership, view, self._settings)
        self._run(self._moving)
        await self._serve(store, deletions, documents)
        self._run(self._janitor(store, deletions))
        await self._announce(client)
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        """Refuses what is new and waits for the turns that are open here, then for open rpcs."""
        self._context.lifecycle.move(State.DRAINING)
        try:
            async with asyncio.timeout(self._settings.rpc.drain_ms_max / 1000):
                if self._moving:
                    await self._moving.turns_ended()
                if self._server:
                    await self._server.drain()
        except TimeoutError:
            return

    async def stop(self) -> None:
        """Lets go of everything."""
        await self._resources.aclose()
        self._context.lifecycle.move(State.STOPPED)

    async def _assemble(self, client: valkey.Client, view: View) -> Store:
        """The parts, in the order in which they stand on one another."""
        settings = self._settings
        acknowledger = valkey.Acknowledger(client, settings.valkey)
        self._resources.push_async_callback(acknowledger.aclose)
        tiers = Tiers(client, acknowledger, bucket(settings), settings.tiering)
        self._resources.push_async_callback(tiers.thawer.stop)
        self._run(tiers.touches)
        log = Log(client, acknowledger, tiers.thawer.thaw, partial(filled, tiers.objects))
        loader = Loader(log, settings.store)
        bodies = Bodies(log, settings.store.bodies_bytes_max)
        return Store(
            log=log,
            sessions=Sessions(
                log,
                loader,
                settings.store.hot_sessions_bytes_max,
                settings.store.hot_sessions_newcomer_share,
                on_void=bodies.drop,
            ),
            bodies=bodies,
            events=await self._segment_events(),
            settings=settings.store,
            member_id=self._context.member_id,
            ownership=Ownership(Circles(view, settings.membership), self._context.member_id),
            tiers=tiers,
            spill=Spill(log, tiers.book, tiers.objects, settings.tiering),
            usage=self._usage(log),
        )

    def _janitor(self, store: Store, deletions: Deletions) -> Janitor:
        loader = Loader(store.log, self._settings.store)
        return Janitor(
            store.tiers,
            store.tiers.freezer(loader.load),
            deletions,
            lambda keys: not store.ownership.is_elsewhere(keys),
            store.expire_turn,
            store.spill,
        )

    def _usage(self, log: Log) -> Usage:
        usage = Usage(log, self._settings.quota)
        self._run(usage)
        return usage

    async def _segment_events(self) -> SegmentEvents:
        queue = self._queue

        async def enqueue(tenant: str, session: str, first: int, last: int) -> None:
            await jobs.enqueue_segment(queue, tenant, session, first, last)

        events = SegmentEvents(enqueue, self._settings.store)
        self._run(events)
        return events

    def _run(self, background: Background) -> None:
        background.start()
        self._resources.push_async_callback(background.stop)

    async def _serve(self, store: Store, deletions: Deletions, documents: DocumentEvents) -> None:
        server = self._server = GrpcServer(self._context, finishing=FINISHING)
        service = ContextService(store, deletions, documents.announce)
        self._resources.push_async_callback(service.indexes.stop)
        server.add(add_ContextServiceServicer_to_server, service, context_service_pb2.DESCRIPTOR)
        self.address = await server.start()
        self._resources.push_async_callback(server.stop)

    async def _announce(self, client: valkey.Client) -> None:
        settings = self._settings.membership
        member = Member(self._context.member_id, self.name, self.address, weight=settings.weight)
        announcer = Announcer(client, settings, member, self._context.lifecycle)
        await announcer.start()
        self._resources.push_async_callback(announcer.stop)
