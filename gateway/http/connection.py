"""Work for a client who may go away: what it asked for is cancelled as soon as it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from gateway.http.errors import CLIENT_GONE, Refusal

T = TypeVar("T")
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class EventStream(Response[Any]):
    """Server-sent events. Whatever is raised before the first one is still answered as an error of its own status.

    `headers_of` is asked for more headers once the first event is there.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers_of: Callable[[], Mapping[str, str]] = dict) -> None:
        super().__init__(content=None)
        self._events = events
        self._headers_of = headers_of

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The response as Litestar sends it."""
        return _Pump(self._events, lambda: [*_HEADERS, *_raw(self._headers_of())])


class ByteStream(EventStream):
    """Bytes of a type, told as they come. What fails in their middle closes the connection."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str, size_bytes: int | None = None) -> None:
        super().__init__(pieces)
        length = [] if size_bytes is None else [(b"content-length", str(size_bytes).encode())]
        self._told = [
            (b"content-type", media_type.encode("latin-1", "replace")),
            *length,
            # A page that somebody uploaded is nothing for a browser to run as ours.
            (b"x-content-type-options", b"nosniff"),
            (b"content-disposition", b"attachment"),
        ]

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The response as Litestar sends it."""
        return _Pump(self._events, lambda: self._told)


class _Pump(ASGIResponse):
    def __init__(self, events: AsyncGenerator[bytes, None], headers: Callable[[], list[tuple[bytes, bytes]]]) -> None:
        super().__init__()
        self._events = events
        self._headers = headers
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._pump(send))
        except Refusal:
            # Nobody reads a status any more once the stream has begun.
            if not self._is_started:
                raise

    async def _pump(self, send: Send) -> None:
        """Sends each event before it takes the next: a slow client slows the turn's reader, and nothing queues."""
        async with aclosing(self._events) as events:
            async for event in events:
                await self._begin(send)
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": 200, "headers": self._headers()})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns or raises; if the client goes first, the work is cancelled, and a Refusal raised."""
    working = asyncio.create_task(work, name="http-work")
    watching = asyncio.create_task(_gone(receive), name="http-watch")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(CLIENT_GONE, "client_gone", None, "the client went away before the answer was ready")
        return working.result()
    finally:
        await _end(working, watching)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
