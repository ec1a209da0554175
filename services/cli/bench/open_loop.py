"""An open loop: turns begin when they are due, whatever became of those before them.

A turn's time counts from when it was due. A client that waits for an answer before it asks again sends less just when
the mesh is slow, and so measures its best moments alone ("coordinated omission").
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from services.cli.bench.histogram import Histogram
from services.cli.bench.load_plan import Share, lifetimes

S = TypeVar("S")

# Turns of one client that are not over; one more is not begun, and an error.
_OPEN_COUNT_MAX: Final = 1_024
_OPENING_CONCURRENT: Final = 16
_NOT_BEGUN: Final = "NOT_BEGUN"


class TurnFailedError(Exception):
    """A turn that got no whole reply; its text is the reason."""


class Speaker(Protocol[S]):
    """How a client talks: what a session is to it, and how a turn is taken there."""

    async def open(self) -> S:
        """A new session."""

    async def turn(self, session: S) -> None:
        """Runs a turn to its end. Raises TurnFailedError."""

    async def close(self, session: S) -> None:
        """The session is not needed any more."""


@dataclass(slots=True)
class Outcome:
    """What became of the turns that were due after the warm-up."""

    latencies: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    last_s: float = 0.0


@dataclass(slots=True)
class _Place(Generic[S]):
    session: S
    turns_left: int


class OpenLoop(Generic[S]):
    """One client's share of the load. `prepare`, then `run` once, then `clear`."""

    def __init__(self, share: Share, speaker: Speaker[S]) -> None:
        self._share = share
        self._speaker = speaker
        self._idle: asyncio.Queue[_Place[S]] = asyncio.Queue()
        self._open: set[asyncio.Task[None]] = set()
        self.outcome = Outcome()
        # All that are over, those of the warm-up included.
        self.done = 0

    async def prepare(self) -> None:
        """Opens the sessions."""
        left = iter(lifetimes(self._share.sessions, self._share.session_turns))

        async def some() -> None:
            for turns in left:
                self._idle.put_nowait(_Place(await self._speaker.open(), turns))

        async with asyncio.TaskGroup() as group:
            for _ in range(_OPENING_CONCURRENT):
                group.create_task(some())

    async def run(self) -> Outcome:
        """Begins each turn when it is due; returns when all are over."""
        loop, share = asyncio.get_running_loop(), self._share
        begun = loop.time()
        for number in range(turns_count(share)):
            due_s = share.first_s + number * share.every_s
            await asyncio.sleep(max(0.0, begun + due_s - loop.time()))
            if len(self._open) < _OPEN_COUNT_MAX:
                task = loop.create_task(self._one(begun, due_s, loop.time))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            elif due_s >= share.warm_up_s:
                self.outcome.errors[_NOT_BEGUN] += 1
        await asyncio.gather(*self._open)
        return self.outcome

    async def clear(self) -> None:
        """Closes the sessions."""
        while not self._idle.empty():
            await self._speaker.close(self._idle.get_nowait().session)

    async def _one(self, begun: float, due_s: float, clock: Callable[[], float]) -> None:
        # The one that has been idle for the longest. If none is, that is waited for, and counted as time of the turn.
        place = await self._idle.get()
        reason = ""
        try:
            await self._speaker.turn(place.session)
        except TurnFailedError as error:
            reason = str(error)
        self._count(due_s, clock() - begun, reason)
        place.turns_left -= 1
        if not place.turns_left:
            place = await self._renewed(place)
        self._idle.put_nowait(place)

    def _count(self, due_s: float, now_s: float, reason: str) -> None:
        self.done += 1
        if due_s < self._share.warm_up_s:
            return
        self.outcome.last_s = max(self.outcome.last_s, now_s)
        if reason:
            self.outcome.errors[reason] += 1
        else:
            self.outcome.latencies.add((now_s - due_s) * 1_000)

    async def _renewed(self, place: _Place[S]) -> _Place[S]:
        try:
            session = await self._speaker.open()
            await self._speaker.close(place.session)
        except TurnFailedError as error:
            self.outcome.errors[f"{error} (a session)"] += 1
            session = place.session
        return _Place(session, self._share.session_turns)


def turns_count(share: Share) -> int:
    """How many turns are due before the time is over."""
    return max(0, int((share.seconds - share.first_s) / share.every_s + 1e-9))


def told(outcome: Outcome) -> dict[str, Any]:
    """As JSON has it."""
    return {"latencies": outcome.latencies.told(), "errors": dict(outcome.errors), "last_s": outcome.last_s}
