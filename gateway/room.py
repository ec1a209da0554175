"""The gateway as a process: both edges over one backend and one turn driver."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from isthmus.session.v1 import session_service_pb2, session_service_pb2_grpc

from gateway.access.gate import Gate, KeyGate, OpenGate
from gateway.access.rpc import admitting
from gateway.backend import Backend
from gateway.forgetting import Forgetting
from gateway.http.app import create_app
from gateway.http.server import HttpServer
from gateway.limits.admission import Admission
from gateway.limits.limiter import Limiter
from gateway.limits.metrics import LimitMetrics
from gateway.limits.rpc import limiting
from gateway.models.replicas import Replicas
from gateway.service import SessionServicer
from gateway.shards import Shards
from gateway.turn.driven import DrivenTurns
from gateway.turn.turns import TurnDriver
from services import valkey
from services.lifecycle import RoomContext, State
from services.membership import Announcer, Member, View
from services.router import INFERENCE, STORE, Router
from services.rpc import Channels, GrpcServer

# A draining gateway still lets those turns be cancelled that it waits for.
CANCEL_TURN: Final = "/isthmus.session.v1.SessionService/CancelTurn"


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
            finishing=[CANCEL_TURN],
            admit=limiting(admitting(lambda: self._gate), lambda: self._limiter),
        )
        self._gate: Gate = OpenGate(context.settings.mesh.tenant_default)
        self._limiter: Limiter
        self._http: HttpServer | None = None
        self._turns: TurnDriver | None = None
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
        if settings.gateway.access.mode == "keys":
            self._gate = KeyGate(connection, settings.gateway.access)
        self._closing.callback(self._gate.close)
        limit_metrics = LimitMetrics()
        self._limiter = Limiter(connection, settings, limit_metrics)
        await self._limiter.start()
        self._closing.push_async_callback(self._limiter.stop)
        channels = Channels(settings.rpc, self.name)
        self._closing.push_async_callback(channels.aclose)
        view = View(connection, settings.membership, rooms=(STORE, INFERENCE))
        await view.start()
        self._closing.push_async_callback(view.stop)
        forgetting = Forgetting(view, channels, settings.gateway)
        await self._serve(view, Router(view, channels, settings.membership), forgetting, limit_metrics)
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
        await asyncio.gather(self._server.drain(), self._stop_http(drain_ms_max), turns)

    async def stop(self) -> None:
        """Cancels what is still under way, leaves its turns to other gateways, and lets go of everything."""
        if self._turns is not None:
            self._turns.close()
        self._context.lifecycle.move(State.STOPPED)
        await self._closing.aclose()

    async def _serve(self, view: View, router: Router, forgetting: Forgetting, limit_metrics: LimitMetrics) -> None:
        settings = self._settings
        shards = Shards(router, settings.gateway)
        replicas = Replicas(view, router, settings.gateway)
        driven = DrivenTurns()
        backend = Backend(shards, replicas, driven, forgetting, settings)
        admission = Admission(self._limiter, replicas, settings.gateway, limit_metrics)
        turns = self._turns = TurnDriver(shards, replicas, driven, settings.gateway, admission)
        self._closing.push_async_callback(turns.ended)
        self._server.add(
            session_service_pb2_grpc.add_SessionServiceServicer_to_server,
            SessionServicer(backend, turns),
            session_service_pb2.DESCRIPTOR,
        )
        await self._server.start()
        self._closing.push_async_callback(self._server.stop)
        if self._context.http_listen is not None:
            app = create_app(backend, turns, self._gate, settings, self._context.lifecycle)
            self._http = HttpServer(app, self._context.http_listen, settings)
            await self._http.start()
            self._closing.push_async_callback(self._stop_http, 0)

    async def _stop_http(self, grace_ms: int) -> None:
        if self._http is not None:
            await self._http.stop(grace_ms)
