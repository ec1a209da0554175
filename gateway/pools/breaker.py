"""A circuit breaker: closed, open for a while when too much fails, then one call at a time until one succeeds. Pure.

Nygard, Release It! (2nd ed., 2018), ch. 5; the window of outcomes is that of time, as in Hystrix. Times are seconds of
one monotonic clock.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from services.config import BreakerSettings

# Outcomes that are remembered, whatever the window: beyond that the oldest count no more.
_OUTCOMES_COUNT_MAX: Final = 4_096


class BreakerState(enum.Enum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts how calls end. `uniform` gives numbers from 0 to 1, so that many breakers do not close together."""

    def __init__(self, settings: BreakerSettings, uniform: Callable[[], float]) -> None:
        self._settings = settings
        self._uniform = uniform
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_OUTCOMES_COUNT_MAX)
        self._failures = 0
        self._open_until: float | None = None
        # Openings in a row, each twice as long as the one before.
        self._openings = 0
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """The state at a time."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def permits(self, now: float) -> bool:
        """Whether a call may begin; while it is half open one may, and the next when that one has ended."""
        state = self.state(now)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self._probing)

    def wait_s(self, now: float) -> float:
        """How long no call may begin, as far as that is known."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def began(self, now: float) -> bool:
        """A call begins; whether it is the one by which a half-open breaker decides."""
        is_probe = self.state(now) is BreakerState.HALF_OPEN and not self._probing
        self._probing = self._probing or is_probe
        return is_probe

    def succeeded(self, now: float, *, is_probe: bool = False) -> None:
        """A call ended well. Only a probe closes an open breaker: others began before it opened."""
        if is_probe:
            self._close()
        self._ended(now, failed=False)

    def failed(self, now: float, *, is_probe: bool = False) -> None:
        """A call failed."""
        self._ended(now, failed=True)
        if is_probe:
            self._probing = False
            self._open(now)
        elif self._open_until is None and self._is_over():
            self._open(now)

    def abandoned(self, *, is_probe: bool = False) -> None:
        """A call ended without a word on the one who was called."""
        if is_probe:
            self._probing = False

    def error_share(self, now: float) -> float:
        """The share of calls in the window that failed; 0 where there were none."""
        self._forget(now)
        return self._failures / len(self._outcomes) if self._outcomes else 0.0

    def _ended(self, now: float, *, failed: bool) -> None:
        self._forget(now)
        if len(self._outcomes) == self._outcomes.maxlen:
            self._failures -= self._outcomes[0][1]
        self._outcomes.append((now, failed))
        self._failures += failed

    def _forget(self, now: float) -> None:
        since = now - self._settings.window_ms / 1000
        while self._outcomes and self._outcomes[0][0] <= since:
            self._failures -= self._outcomes.popleft()[1]

    def _is_over(self) -> bool:
        count, least = len(self._outcomes), self._settings.calls_count_min
        if count < least:
            return False
        # Where much went well before, the share alone would let as much fail again first.
        is_all = all(failed for _, failed in islice(reversed(self._outcomes), least))
        return is_all or self._failures >= self._settings.failure_share_max * count

    def _open(self, now: float) -> None:
        shortest, longest = self._settings.open_ms_min / 1000, self._settings.open_ms_max / 1000
        span = min(shortest * 2.0 ** min(self._openings, 32), longest)
        # A quarter of it is left to chance.
        self._open_until = now + span * (0.75 + 0.25 * self._uniform())
        self._openings += 1

    def _close(self) -> None:
        self._open_until = None
        self._openings = 0
        self._probing = False
        self._outcomes.clear()
        self._failures = 0
