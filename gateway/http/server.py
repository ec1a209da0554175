"""Serves the HTTP edge inside the gateway's own event loop."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Generator
from contextlib import contextmanager

import msgspec
import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.http.errors import Problem
from services.config import Settings

# Cancelled requests only have to unwind; what they leave behind is bounded elsewhere.
_UNWIND_S = 1.0
_BACKLOG = 1024
# What a client that has just connected may take to send its request to a server that goes.
_FIRST_REQUEST_S = 1.0


class HttpServer:
    """A listening socket. `listen` is `host:port`; port 0 lets the system choose, `address` tells which.

    `shared` is another address, which other processes serve, too: the system deals its connections out.
    """

    def __init__(self, app: ASGIApp, listen: str, settings: Settings, shared: str | None = None) -> None:
        self._listen = listen
        self._shared = shared
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol if shared is None else _SharedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=-(-settings.gateway.http_keepalive_ms // 1000),
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> None:
        """Binds and serves from now on. OSError if the address cannot be had, ValueError if it is none."""
        bound = _bind(self._listen)
        host, port = bound.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        sockets = [bound]
        if self._shared is not None:
            sockets.append(_bind(self._shared, shared=True))
        self._serving = asyncio.create_task(self._server.serve(sockets=sockets), name="http-server")
        started = asyncio.create_task(self._server.started_event.wait())
        await asyncio.wait({self._serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            self._serving.result()

    async def stop(self, grace_ms: int) -> None:
        """Takes no more connections, lets open requests end within `grace_ms`, and cancels the rest."""
        if self._serving is None:
            return
        serving, self._serving = self._serving, None
        if not grace_ms:
            await self._server.cut()
        self._server.end_within(max(grace_ms / 1000, _UNWIND_S))
        await serving
        await self._server.cut()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.started_event = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the process's own affair."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.started_event.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """On a shared port: takes what the system has accepted for it already, which closing would cut off."""
        shares_port = self.config.http is _SharedProtocol
        for each in (sockets or ()) if shares_port else ():
            for _ in range(_BACKLOG):
                if not _has_waiting(each):
                    break
                await asyncio.sleep(0)
        await super().shutdown(sockets)

    def end_within(self, grace_s: float) -> None:
        self.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
        self.should_exit = True

    async def cut(self) -> None:
        """Cancels open requests, waits for them to unwind, and closes every connection."""
        tasks = set(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_UNWIND_S)
        for connection in set(self.server_state.connections):
            connection.transport.close()


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, but for bytes that are no HTTP: they get OpenAI's error object too."""

    def send_400_response(self, msg: str) -> None:
        problem = Problem(400, f"{msg.lower().rstrip('.')}; expected HTTP/1.1", None, "invalid_http")
        body = msgspec.json.encode(problem.body)
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


class _SharedProtocol(_Protocol):
    """On a port that others serve, too: a connection that the server got just before it goes is served once more."""

    _is_last = False

    def shutdown(self) -> None:
        if self._was_asked:
            super().shutdown()
            return
        self._is_last = True
        self.loop.call_later(_FIRST_REQUEST_S, self._close_unused)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._is_last and self._was_asked:
            self.cycle.keep_alive = False

    def _close_unused(self) -> None:
        if not self._was_asked:
            self.transport.close()

    @property
    def _was_asked(self) -> bool:
        # uvicorn's type says that there is always one.
        cycle: object = self.cycle
        return cycle is not None


def _has_waiting(listening: socket.socket) -> bool:
    """Whether a connection waits to be taken."""
    asked = select.poll()
    asked.register(listening, select.POLLIN)
    return bool(asked.poll(0))


def _bind(listen: str, *, shared: bool = False) -> socket.socket:
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdecimal():
        raise ValueError(f"http listen address: {listen!r}; expected HOST:PORT, such as 127.0.0.1:8000 or [::1]:0")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, because asyncio switches Nagle's algorithm off only where it is.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, int(port)))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen for HTTP on {listen}: {error.strerror}") from None
    return bound
