"""The gateway as a process: both edges over one backend and one turn driver."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from google.longrunning import operations_pb2, operations_pb2_grpc  # type: ignore[import-untyped]
from isthmus.gateway.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    cache_service_pb2,
    cache_service_pb2_grpc,
    pool_service_pb2,
    pool_service_pb2_grpc,
)
from isthmus.session.v1 import (
    library_service_pb2,
    library_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

from gateway.access.gate import Gate, KeyGate, OpenGate
from gateway.access.jwks import Jwks
from gateway.access.rpc import admitting
from gateway.access.tokens import EitherGate, TokenGate
from gateway.audits.sampling import AuditLine
from gateway.audits.service import AuditServicer
from gateway.backend import Backend
from gateway.caches.caches import Caches
from gateway.caches.keeper import Keeper
from gateway.caches.service import CacheServicer
from gateway.forgetting import Forgetting
from gateway.http.app import create_app
from gateway.http.server import HttpServer
from gateway.jobs.jobs import TurnJobs
from gateway.jobs.operations import OperationsServicer
from gateway.libraries.libraries import Libraries
from gateway.libraries.service import LibraryServicer
from gateway.limits.admission import Admission
from gateway.limits.limiter import Limiter
from gateway.limits.metrics import LimitMetrics
from gateway.limits.rpc import limiting
from gateway.models.embedding import Embedding
from gateway.models.replicas import Replicas
from gateway.pools.drains import Drains
from gateway.pools.metrics import PoolMetrics
from gateway.pools.pools import Pools
from gateway.pools.service import PoolServicer
from gateway.service import SessionServicer
from gateway.shards import Shards
from gateway.turn.driven import DrivenTurns
from gateway.turn.turns import TurnDriver
from services import valkey
from services.audits.keeper import AuditKeeper
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member, View
from services.router import INFERENCE, STORE, Router
from services.rpc import Channels, GrpcServer

# A draining gateway still lets those turns be cancelled that it waits for.
CANCEL_TURN: Final = "/isthmus.session.v1.SessionService/CancelTurn"
CANCEL_OPERATION: Final = "/google.longrunning.Operations/CancelOperation"
# Where others serve its port, too, it answers what still comes in over connections that it has not got rid of yet.
_SERVICE: Final = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
ALL_METHODS: Final = tuple(f"/{_SERVICE.full_name}/{each.name}" for each in _SERVICE.methods)


class GatewayRoom:
    """The one door of the mesh; it holds nothing that cannot be lost.

    Ready as soon as it can answer, whether or not shards and replicas are there: a turn waits for them
    `gateway.upstream_wait_ms_max` and then fails with RetryInfo, which tells a client more than a closed port does.
    """

    name = "gateway"

    def __init__(self, context: RoomContext) -> None:
        self._context = context
        self._settings = context.settings
        self._server = GrpcServer(
            context,
            message_bytes_max=context.settings.rpc.edge_message_bytes_max,
            finishing=[CANCEL_TURN, CANCEL_OPERATION] if context.shared_listen is None else ALL_METHODS,
            admit=limiting(admitting(lambda: self._gate), lambda: self._limiter),
        )
        self._gate: Gate = OpenGate(context.settings.mesh.tenant_default)
        self._limiter: Limiter
        self._limit_metrics = LimitMetrics()
        self._http: HttpServer | None = None
        self.pools: Pools | None = None
        self._turns: TurnDriver | None = None
        self._jobs: TurnJobs | None = None
        self._libraries: Libraries | None = None
        self._closing = AsyncExitStack()

    @property
    def address(self) -> str:
        """The gRPC edge's bound `host:port`."""
        return self._server.address

    @property
    def http_address(self) -> str:
        """The HTTP edge's bound `host:port`, empty where there is none."""
        return "" if self._http is None else self._http.address

    async def start(self) -> None:
        """Serves both edges and announces itself. Raises OSError for an address that cannot be had."""
        settings = self._settings
        connection = valkey.connect(settings.valkey)
        self._closing.push_async_callback(connection.aclose)
        self._gate = await self._opened_gate(connection)
        self._closing.callback(self._gate.close)
        self._limiter = Limiter(connection, settings, self._limit_metrics)
        await self._limiter.start()
        self._closing.push_async_callback(self._limiter.stop)
        channels = Channels(settings.rpc, self.name)
        self._closing.push_async_callback(channels.aclose)
        view = View(connection, settings.membership, rooms=(STORE, INFERENCE))
        await view.start()
        self._closing.push_async_callback(view.stop)
        forgetting = Forgetting(view, channels, settings.gateway)
        router = Router(view, channels, settings.membership)
        replicas = Replicas(view, router, settings.gateway)
        self.pools = replicas.pools
        await self._add_pools(connection, view, replicas)
        await self._serve(connection, router, replicas, forgetting)
        member = Member(self._context.member_id, self.name, self._server.address)
        announcer = Announcer(connection, settings.membership, member, self._context.lifecycle)
        await announcer.start()
        self._closing.push_async_callback(announcer.stop)
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        """Takes nothing new and lets the turns under way end, within `rpc.drain_ms_max`."""
        self._context.lifecycle.move(State.DRAINING)
        drain_ms_max = self._settings.rpc.drain_ms_max
        turns = self._turns.drained(drain_ms_max / 1000) if self._turns is not None else asyncio.sleep(0)
        await asyncio.gather(self._server.drain(), self._stop_http(drain_ms_max), self._drain_jobs(), turns)

    async def stop(self) -> None:
        """Cancels what is still under way, leaves its turns to other gateways, and lets go of everything."""
        if self._turns is not None:
            self._turns.close()
        self._context.lifecycle.move(State.STOPPED)
        await self._closing.aclose()

    async def _opened_gate(self, connection: valkey.Client) -> Gate:
        access = self._settings.gateway.access
        keys = KeyGate(connection, access) if access.wants_keys else None
        if not access.wants_tokens:
            return keys or self._gate
        jwks = Jwks(access.jwt)
        await jwks.start()
        self._closing.push_async_callback(jwks.stop)
        tokens = TokenGate(jwks, access)
        return tokens if keys is None else EitherGate(keys, tokens)

    async def _add_pools(self, connection: valkey.Client, view: View, replicas: Replicas) -> None:
        acknowledger = valkey.Acknowledger(connection, self._settings.valkey)
        self._closing.push_async_callback(acknowledger.aclose)
        drains = Drains(connection, acknowledger, replicas.pools, self._settings.gateway.resilience)
        await drains.start()
        self._closing.push_async_callback(drains.stop)
        self._server.add(
            pool_service_pb2_grpc.add_PoolServiceServicer_to_server,
            PoolServicer(replicas.pools, view, drains, self._context.member_id),
            pool_service_pb2.DESCRIPTOR,
        )

    async def _serve(
        self,
        connection: valkey.Client,
        router: Router,
        replicas: Replicas,
        forgetting: Forgetting,
    ) -> None:
        settings = self._settings
        shards = Shards(router, settings.gateway)
        driven = DrivenTurns()
        embedding = Embedding(replicas, settings.gateway)
        caches = Caches(Keeper(connection, settings.gateway.caches), embedding, settings.gateway.caches)
        self._closing.push_async_callback(caches.aclose)
        backend = Backend(shards, replicas, driven, forgetting, settings, caches)
        admission = Admission(self._limiter, replicas, settings.gateway, self._limit_metrics)
        audits = AuditLine(settings, self._context.member_id)
        audits.start()
        self._closing.push_async_callback(audits.stop)
        turns = self._turns = TurnDriver(shards, replicas, driven, settings.gateway, admission, caches, audits)
        turns.metrics.registry.register(PoolMetrics(replicas.pools))
        self._closing.push_async_callback(turns.ended)
        jobs = self._jobs = TurnJobs(connection, backend, turns, shards, settings, self._context.member_id)
        self._server.add(
            session_service_pb2_grpc.add_SessionServiceServicer_to_server,
            SessionServicer(backend, turns, jobs),
            session_service_pb2.DESCRIPTOR,
        )
        self._server.add(
            operations_pb2_grpc.add_OperationsServicer_to_server,
            OperationsServicer(backend, jobs, settings.gateway.jobs),
            operations_pb2.DESCRIPTOR,
        )
        self._server.add(
            cache_service_pb2_grpc.add_CacheServiceServicer_to_server,
            CacheServicer(caches, backend),
            cache_service_pb2.DESCRIPTOR,
        )
        self._server.add(
            audit_service_pb2_grpc.add_AuditServiceServicer_to_server,
            AuditServicer(AuditKeeper(connection, settings.compressor.audits)),
            audit_service_pb2.DESCRIPTOR,
        )
        libraries = self._libraries = Libraries(
            connection, backend, shards, admission, settings, self._context.member_id, turns.metrics.registry
        )
        self._server.add(
            library_service_pb2_grpc.add_LibraryServiceServicer_to_server,
            LibraryServicer(libraries, backend),
            library_service_pb2.DESCRIPTOR,
        )
        await self._server.start()
        self._closing.push_async_callback(self._server.stop)
        if self._context.http_listen is not None:
            shared = self._context.shared_http_listen
            app = create_app(
                backend,
                turns,
                jobs,
                libraries,
                self._gate,
                settings,
                self._context.lifecycle,
                shares_port=shared is not None,
            )
            self._http = HttpServer(app, self._context.http_listen, settings, shared)
            await self._http.start()
            self._closing.push_async_callback(self._stop_http, 0)
        jobs.start()
        self._closing.push_async_callback(jobs.stop)
        libraries.start()
        self._closing.push_async_callback(libraries.stop)

    async def _drain_jobs(self) -> None:
        draining = [each.drain() for each in (self._jobs, self._libraries) if each is not None]
        await asyncio.gather(*draining)

    async def _stop_http(self, grace_ms: int) -> None:
        if self._http is not None:
            await self._http.stop(grace_ms)
