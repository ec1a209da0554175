"""`/metrics` of a room that has no other HTTP, for Prometheus: a server of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST

_PATH: Final = "/metrics"
# Scrapers are few; one that comes while so many are served gets 503.
_OPEN_COUNT_MAX: Final = 8
_KEEPALIVE_S: Final = 5
_STOP_S_MAX: Final = 1


class MetricsServer:
    """Serves what `exposition` gives. `listen` is `host:port`; port 0 lets the system choose, `address` tells which."""

    def __init__(self, exposition: Callable[[], bytes], listen: str) -> None:
        self._exposition = exposition
        self._listen = listen
        self._server = _Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_OPEN_COUNT_MAX,
                timeout_keep_alive=_KEEPALIVE_S,
                timeout_graceful_shutdown=_STOP_S_MAX,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> None:
        """Binds and serves from now on. OSError if the address cannot be had, ValueError if it is none."""
        host, _, port = self._listen.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"metrics listen address: {self._listen!r}; expected HOST:PORT, such as 127.0.0.1:8080")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, int(port)), family=family)
        self.address = f"{self._listen.rpartition(':')[0]}:{bound.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]), name="metrics")
        await self._server.begun.wait()

    async def stop(self) -> None:
        """Takes no more connections and ends those that are open."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        is_known = scope["path"] == _PATH and scope["method"] in ("GET", "HEAD")
        status, body = (200, self._exposition()) if is_known else (404, b"expected GET /metrics\n")
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode() if is_known else b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's own affair."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()
