"""The gRPC server of a room: services, health, reflection, bounds, and a drain that finishes what is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from services.config import RpcSettings
from services.lifecycle import RoomContext, State
from services.rpc.interceptor import Admit, RoomInterceptor

_log: Final = structlog.get_logger("rpc")

# The name that stands for the process as a whole in grpc.health.v1.
WHOLE: Final = ""


class GrpcServer:
    """A room's server. Add servicers, `start`, and leave refusing, checking, mapping and health to it.

    `message_bytes_max` bounds a request and a response (None takes `rpc.message_bytes_max`). Methods named in
    `finishing` (`/package.Service/Method`) go on being served while the room drains, for the sake of open work. `admit`
    is asked before each rpc but health and reflection, by the method's name, and raises if it is not let in.
    """

    def __init__(
        self,
        context: RoomContext,
        *,
        message_bytes_max: int | None = None,
        finishing: Iterable[str] = (),
        admit: Admit | None = None,
    ) -> None:
        self._settings = context.settings.rpc
        self._lifecycle = context.lifecycle
        self._listen = context.listen
        self._shared = context.shared_listen
        self._names: list[str] = []
        self._interceptor = RoomInterceptor(self._lifecycle, self._settings.concurrent_rpcs_max, finishing, admit)
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=server_options(
                self._settings,
                message_bytes_max or self._settings.message_bytes_max,
                shares_port=context.shared_listen is not None,
            ),
        )
        self._health = health.aio.HealthServicer()
        self._health_task: asyncio.Task[None] | None = None
        self.address = ""

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object, contract: FileDescriptor) -> None:
        """Adds a servicer by its generated `add_…Servicer_to_server`; `contract` is the `_pb2` module's DESCRIPTOR."""
        register(servicer, self._server)
        self._names.extend(service.full_name for service in contract.services_by_name.values())

    @property
    def open_rpcs(self) -> int:
        """How many rpcs are being served now, health and reflection aside."""
        return self._interceptor.open_rpcs

    async def start(self) -> str:
        """Binds and serves; returns the bound `host:port`. Until the lifecycle is READY every rpc answers NOT_READY.

        Raises OSError when the address cannot be bound.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflected = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(reflected, self._server)
        host, _, _ = self._listen.rpartition(":")
        port = self._bind(self._listen)
        if self._shared is not None:
            self._bind(self._shared)
        await self._server.start()
        self.address = f"{host}:{port}"
        self._lifecycle.watch(self._show)
        await self._tell(self._lifecycle.state)
        return self.address

    async def drain(self) -> None:
        """Waits until the open rpcs have ended, at most `rpc.drain_ms_max`. The lifecycle is DRAINING by then.

        On a port that others serve, too, new connections are theirs from here on, and callers are told to leave theirs.
        """
        if self._shared is not None:
            await self._server.stop(grace=self._settings.drain_ms_max / 1000)
            return
        try:
            async with asyncio.timeout(self._settings.drain_ms_max / 1000):
                await self._interceptor.wait_idle()
        except TimeoutError:
            return

    async def stop(self) -> None:
        """Cancels what is still open, waits until it has cleaned up, and lets go of the port."""
        await self._server.stop(grace=None)
        try:
            # gRPC does not wait for a servicer whose caller has left, and what it stands on goes next.
            async with asyncio.timeout(self._settings.cleanup_ms_max / 1000):
                await self._interceptor.wait_idle()
        except TimeoutError:
            _log.warning("rpcs that were cancelled have not ended", open=self.open_rpcs)
        if self._health_task is not None:
            await self._health_task

    def _bind(self, listen: str) -> int:
        try:
            return int(self._server.add_insecure_port(listen))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {error}") from None

    def _show(self, state: State) -> None:
        self._health_task = asyncio.get_running_loop().create_task(self._tell(state))

    async def _tell(self, state: State) -> None:
        serving = health_pb2.HealthCheckResponse.ServingStatus
        status = serving.SERVING if state is State.READY else serving.NOT_SERVING
        for name in (WHOLE, *self._names):
            await self._health.set(name, status)


def server_options(
    settings: RpcSettings, message_bytes_max: int, *, shares_port: bool = False
) -> list[tuple[str, int]]:
    """gRPC's arguments for a server: message bounds, keepalive, and no sharing of ports that was not asked for."""
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_metadata_size", settings.metadata_bytes_max),
        ("grpc.keepalive_time_ms", settings.keepalive_ms),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", settings.keepalive_ms // 2),
        # Two processes on one port would split its connections between them without a word.
        ("grpc.so_reuseport", int(shares_port)),
    ]
