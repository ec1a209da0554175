"""The headers of a stream wait for its source: no longer than they may, and nothing is lost or turned round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.http.caching import HEADER, Sourced
from services.config import CacheSettings
from services.errors import NotFound

Event = session_service_pb2.RunTurnResponse
ACCEPTED = Event(accepted=Event.Accepted(turn="sessions/s/turns/1"))
HOP = Event(hop=turn_pb2.Hop(name="gateway.inference"))
MADE = Event(source=Event.Source())
CACHED = Event(source=Event.Source(cache=turn_pb2.CacheUse(kind=turn_pb2.CacheUse.KIND_EXACT, score=1)))
DELTA = Event(delta=Event.Delta(text="Hello", piece=1))
DONE = Event(done=Event.Done(turn=turn_pb2.Turn(receipt=turn_pb2.Receipt(cache=CACHED.source.cache))))


class Turn:
    """Events as they are let out. `given` are those that came so far."""

    def __init__(self, *events: Event | Exception | None) -> None:
        self.events = events
        self.gate = asyncio.Event()
        self.is_waiting = asyncio.Event()
        self.given: list[Event] = []

    async def told(self) -> AsyncGenerator[Event, None]:
        """`None` waits for the gate."""
        for event in self.events:
            if event is None:
                self.is_waiting.set()
                await self.gate.wait()
            elif isinstance(event, Exception):
                raise event
            else:
                self.given.append(event)
                yield event


def sourced(ms_max: int = 60_000, *, exact: bool = True) -> Sourced:
    """Of a turn that may be given a cached answer, or not."""
    mode = session_service_pb2.CachePolicy.MODE_EXACT if exact else session_service_pb2.CachePolicy.MODE_OFF
    request = session_service_pb2.RunTurnRequest(cache=session_service_pb2.CachePolicy(mode=mode))
    return Sourced(request, CacheSettings(stream_headers_ms_max=ms_max))


@pytest.mark.parametrize(
    ("events", "header"),
    [
        ([ACCEPTED, CACHED, DELTA, DONE], True),
        ([ACCEPTED, MADE, HOP, DELTA], False),
        # Of a turn that was done before.
        ([ACCEPTED, DONE], True),
        ([ACCEPTED, HOP, DELTA, DONE], False),
        ([ACCEPTED], False),
        ([], False),
    ],
)
async def test_what_is_held_comes_in_its_order_once_the_source_is_known(events: list[Event], header: bool) -> None:
    one = sourced()
    got, at_first = [], None
    async with aclosing(one.events(Turn(*events).told())) as told:
        async for event in told:
            at_first = dict(one.headers) if at_first is None else at_first
            got.append(event)
    assert got == events
    assert (HEADER in (at_first or {})) == header


async def test_what_comes_too_late_is_not_waited_for_and_not_lost() -> None:
    turn, one = Turn(ACCEPTED, None, CACHED, DELTA, DONE), sourced(ms_max=1)
    async with aclosing(one.events(turn.told())) as told:
        assert await anext(told) == ACCEPTED
        assert one.headers == {}
        turn.gate.set()
        assert [event async for event in told] == [CACHED, DELTA, DONE]


async def test_who_asks_no_cache_waits_for_nothing() -> None:
    turn = Turn(ACCEPTED, None)
    async with aclosing(sourced(exact=False).events(turn.told())) as told:
        assert await anext(told) == ACCEPTED
        assert turn.given == [ACCEPTED]


async def test_an_error_comes_behind_what_was_told_before_it() -> None:
    async with aclosing(sourced().events(Turn(ACCEPTED, NotFound("gone")).told())) as told:
        assert await anext(told) == ACCEPTED
        with pytest.raises(NotFound):
            await anext(told)


async def test_who_leaves_while_it_is_held_leaves_nothing_behind() -> None:
    turn = Turn(ACCEPTED, None)
    async with aclosing(sourced().events(turn.told())) as told:
        waiting = asyncio.create_task(anext(told))
        await turn.is_waiting.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "turn event"]
