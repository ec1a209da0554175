"""The gateway as a process: both edges over one backend and one turn driver."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from isthmus.session.v1 import session_service_pb2, session_service_pb2_grpc

from gateway.access.gate import Gate, KeyGate, OpenGate
from gateway.access.jwks import Jwks
from gateway.access.rpc import admitting
from gateway.access.tokens import EitherGate, TokenGate
from gateway.backend import Backend
from gateway.forgetting import Forgetting
from gateway.http.app import create_app
from gateway.http.server import HttpServer
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
            finishing=[CANCEL_TURN] if context.shared_listen is None else ALL_METHODS,
            admit=admitting(lambda: self._gate),
        )
        self._gate: Gate = OpenGate(context.settings.mesh.tenant_default)
        self._http: HttpServer | None = None
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
        channels = Channels(settings.rpc, self.name)
        self._closing.push_async_callback(channels.aclose)
        view = View(connection, settings.membership, rooms=(STORE, INFERENCE))
        await view.start()
        self._closing.push_async_callback(view.stop)
        forgetting = Forgetting(view, channels, settings.gateway)
        await self._serve(view, Router(view, channels, settings.membership), forgetting)
        member = Member(self._context.member_id, self.name, self._server.address)
        announcer = Announcer(connection, settings.membership, member, self._context.lifecycle)
        await announcer.start()
        self._closing.push_async_callback(announcer.stop)
        self._context.lifecycle.move(State.READY)

    async def drain(self) -> None:
        """Takes nothing new and lets the turns under way end, within `rpc.drain_ms_max`."""
        self._context.lifecycle.move(State.DRAINING)
        await asyncio.gather(self._server.drain(), self._stop_http(self._settings.rpc.drain_ms_max))

    async def stop(self) -> None:
        """Cancels what is still under way, tells the shards so, and lets go of everything."""
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

    async def _serve(self, view: View, router: Router, forgetting: Forgetting) -> None:
        settings = self._settings
        shards = Shards(router, settings.gateway)
        replicas = Replicas(view, router, settings.gateway)
        driven = DrivenTurns()
        backend = Backend(shards, replicas, driven, forgetting, settings)
        turns = TurnDriver(shards, replicas, driven, settings.gateway)
        self._closing.push_async_callback(turns.ended)
        self._server.add(
            session_service_pb2_grpc.add_SessionServiceServicer_to_server,
            SessionServicer(backend, turns),
            session_service_pb2.DESCRIPTOR,
        )
        await self._server.start()
        self._closing.push_async_callback(self._server.stop)
        if self._context.http_listen is not None:
            shared = self._context.shared_http_listen
            app = create_app(
                backend, turns, self._gate, settings, self._context.lifecycle, shares_port=shared is not None
            )
            self._http = HttpServer(app, self._context.http_listen, settings, shared)
            await self._http.start()
            self._closing.push_async_callback(self._stop_http, 0)

    async def _stop_http(self, grace_ms: int) -> None:
        if self._http is not None:
            await self._http.stop(grace_ms)
