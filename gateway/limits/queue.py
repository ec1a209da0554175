"""The line before turns, in which they wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from isthmus.errors.v1 import errors_pb2

from gateway.limits.line import FairLine, LineFull, Turn
from gateway.limits.metrics import LimitMetrics
from gateway.limits.pace import Pace
from services.config import LimitsSettings
from services.errors import IsthmusError


class TurnQueue:
    """At most `places` turns at once; others wait by `FairLine`, within the bounds of `gateway.limits.queue_…`.

    Refusals are OVERLOADED with RetryInfo by how fast the line moves.
    """

    def __init__(
        self,
        places: int,
        settings: LimitsSettings,
        metrics: LimitMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._line = FairLine(places, settings)
        self._pace = Pace()
        self._waiters: dict[Turn, asyncio.Future[None]] = {}
        metrics.watch(lambda: self._line.waiting, lambda: self._line.waiting_tokens)

    def check(self, tenant: str, tokens: int, until: float) -> None:
        """Refuses at once what could not be placed by `until`, in seconds of the clock."""
        try:
            self._line.check(tenant, tokens)
        except LineFull as error:
            raise self._refused("full", str(error), tenant) from None
        wait_s = None if self._line.is_free else self._wait_s(tenant)
        if wait_s is not None and wait_s > self._patience_s(until):
            told = f"a turn waits some {wait_s:.1f} s here, and this one has {self._patience_s(until):.1f} s"
            raise self._refused("slow", told, tenant)

    @asynccontextmanager
    async def place(self, tenant: str, tokens: int, until: float) -> AsyncIterator[None]:
        """A place, once it is this turn's; given back behind it."""
        self.check(tenant, tokens, until)
        turn = self._line.ask(tenant, tokens, self._clock())
        try:
            if turn.placed_s is None:
                await self._placed(turn, until)
            yield
        finally:
            self._leave(turn)

    async def _placed(self, turn: Turn, until: float) -> None:
        since_s = self._clock()
        waiter = self._waiters[turn] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._patience_s(until)):
                await waiter
        except TimeoutError:
            told = f"the turn waited {self._clock() - since_s:.1f} s for one of {self._line.places} places"
            raise self._refused("long", told, turn.tenant) from None
        finally:
            del self._waiters[turn]
        self._metrics.waited(self._clock() - since_s)

    def _leave(self, turn: Turn) -> None:
        now_s = self._clock()
        if turn.placed_s is not None:
            self._pace.ended(now_s - turn.placed_s)
        for placed in self._line.leave(turn, now_s):
            waiter = self._waiters[placed]
            if not waiter.done():
                waiter.set_result(None)

    def _patience_s(self, until: float) -> float:
        return max(0.0, min(until - self._clock(), self._settings.queue_wait_ms_max / 1000))

    def _wait_s(self, tenant: str) -> float | None:
        return self._pace.wait_s(self._line.ahead_of(tenant), self._line.places)

    def _refused(self, why: str, told: str, tenant: str) -> IsthmusError:
        self._metrics.shed(why)
        settings, wait_s = self._settings, self._wait_s(tenant)
        wait_ms = settings.overload_retry_ms if wait_s is None else math.ceil(wait_s * 1000)
        retry_ms = max(settings.overload_retry_ms, min(wait_ms, settings.overload_retry_ms_max))
        message = f"this gateway is full of turns: {told}; come again in {retry_ms / 1000:.3g} s"
        return IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message, retry_after_ms=retry_ms)
