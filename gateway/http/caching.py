"""The header `Isthmus-Cache`: asked for with a request, told with an answer that was there already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final, TypeAlias

from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.caches.policy import use_of
from gateway.http.body import BoundedRequest
from services.config import CacheSettings
from services.errors import InvalidField

Event: TypeAlias = session_service_pb2.RunTurnResponse
HEADER: Final = "Isthmus-Cache"
Policy = session_service_pb2.CachePolicy
_MODES: Final = {"off": Policy.MODE_OFF, "exact": Policy.MODE_EXACT, "semantic": Policy.MODE_SEMANTIC}


def policy_of(request: BoundedRequest) -> session_service_pb2.CachePolicy | None:
    """What the request asks of the caches; None leaves it to the settings. InvalidField names the header."""
    asked = request.headers.get(HEADER.lower())
    if asked is None:
        return None
    mode = _MODES.get(asked.strip().lower())
    if mode is None:
        raise InvalidField(HEADER, f"is {asked[:64]!r}, expected off, exact or semantic")
    return Policy(mode=mode)


def headers_of(receipt: turn_pb2.Receipt) -> dict[str, str]:
    """What an answer from the cache says of itself; nothing for any other."""
    return _headers(receipt.cache) if receipt.HasField("cache") else {}


class Sourced:
    """A turn's events, none of them given out before it is known where the reply comes from, so that the headers of a
    stream can tell; `headers` has them by then. What is held is what comes before the first text.
    """

    def __init__(self, request: session_service_pb2.RunTurnRequest, settings: CacheSettings) -> None:
        is_asked = use_of(request, request.model, settings).keeps
        self._wait_s = settings.stream_headers_ms_max / 1000 if is_asked else 0.0
        self.headers: dict[str, str] = {}

    async def events(self, turn: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The events, held for `gateway.caches.stream_headers_ms_max` at most; not at all where no cache is asked."""
        async with aclosing(turn):
            if self._wait_s:
                async with aclosing(self._held(turn)) as held:
                    async for event in held:
                        yield event
            async for event in turn:
                yield event

    async def _held(self, turn: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        held: list[Event] = []
        coming: asyncio.Task[Event] | None = None
        try:
            # What fails meanwhile is raised below, behind what was told before it.
            with suppress(Exception):
                async with asyncio.timeout(self._wait_s):
                    while not held or not self._learns(held[-1]):
                        # A task of its own: what comes too late for the headers is not lost.
                        coming = asyncio.create_task(_next(turn), name="turn event")
                        held.append(await asyncio.shield(coming))
                        coming = None
            for event in held:
                yield event
            if coming is not None:
                yield await coming
        except StopTurn:
            return
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    def _learns(self, event: Event) -> bool:
        """Whether the event says where the reply comes from, or comes too late for that."""
        kind = event.WhichOneof("event")
        if kind == "source" and event.source.HasField("cache"):
            self.headers = _headers(event.source.cache)
        elif kind == "done":
            self.headers = headers_of(event.done.turn.receipt)
        return kind in ("source", "delta", "done")


class StopTurn(Exception):  # noqa: N818 - a task cannot raise StopAsyncIteration
    """The turn has no more events."""


async def _next(turn: AsyncGenerator[Event, None]) -> Event:
    try:
        return await anext(turn)
    except StopAsyncIteration:
        raise StopTurn from None


def _headers(use: turn_pb2.CacheUse) -> dict[str, str]:
    kind = turn_pb2.CacheUse.Kind.Name(use.kind).removeprefix("KIND_").lower()
    return {HEADER: f"hit; kind={kind}; score={use.score:.4f}"}
