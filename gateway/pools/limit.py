"""How many calls a pool takes at once, as far as its provider lets that be known. Pure.

Additive increase, multiplicative decrease (Chiu and Jain, 1989): a refusal takes a share off what was in flight, a
success at the limit adds one a round. Beyond that the provider's own word counts: what is left until its next reset,
and how long it wants to hear nothing. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_DECREASE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Quota:
    """What a provider has left of requests, or of tokens, and in how many seconds it counts anew."""

    remaining: int
    reset_s: float


class _Left:
    """A quota as it goes down with what is begun."""

    def __init__(self) -> None:
        self._remaining = math.inf
        self._reset_at = -math.inf

    def told(self, quota: Quota, now: float) -> None:
        self._remaining, self._reset_at = float(quota.remaining), now + quota.reset_s

    def take(self, amount: float) -> None:
        self._remaining -= amount

    def wait_s(self, amount: float, now: float) -> float:
        return 0.0 if self._remaining >= amount else max(0.0, self._reset_at - now)


class AdaptiveLimit:
    """Calls in flight, the most there may be of them, and what the provider said."""

    def __init__(self, calls_count_max: int) -> None:
        self._most = float(calls_count_max)
        self._limit = self._most
        self._requests = _Left()
        self._tokens = _Left()
        self._closed_until = -math.inf
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """The most calls at once."""
        return int(self._limit)

    def wait_s(self, tokens: int, now: float) -> float:
        """How long the provider wants to hear nothing of a call with so many tokens; 0 for a call that may begin.

        A window larger than any quota must not wait for ever: one that is alone is let through after the reset.
        """
        waits = (self._closed_until - now, self._requests.wait_s(1, now), self._tokens.wait_s(tokens, now))
        return max(0.0, *waits)

    def permits(self, tokens: int, now: float) -> bool:
        """Whether a call may begin."""
        return self.in_flight < self.limit and self.wait_s(tokens, now) <= 0.0

    def began(self, tokens: int) -> None:
        """A call begins."""
        self.in_flight += 1
        self._requests.take(1)
        self._tokens.take(tokens)

    def ended(self) -> None:
        """A call is over, however it ended."""
        self.in_flight -= 1

    def succeeded(self) -> None:
        """A call that is still in flight ended well. The limit grows only while it is used: what was not tried, is not
        known.
        """
        if self.in_flight >= self._limit / 2:
            self._limit = min(self._most, self._limit + 1.0 / self._limit)

    def refused(self, retry_after_s: float, now: float) -> None:
        """The provider refused a call that is still in flight: too many."""
        # Those that were refused together are one refusal.
        if now >= self._closed_until:
            self._limit = max(1.0, min(self._limit, float(self.in_flight)) * _DECREASE)
        self._closed_until = max(self._closed_until, now + retry_after_s)

    def told(self, now: float, *, requests: Quota | None = None, tokens: Quota | None = None) -> None:
        """What a provider said of its quotas in an answer's headers."""
        if requests is not None:
            self._requests.told(requests, now)
        if tokens is not None:
            self._tokens.told(tokens, now)
