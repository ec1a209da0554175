"""How fast requests leave a line: what a refused one is told to come back by."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

# Few enough to forget soon how long replies were a while ago.
_BEGUN_COUNT_MAX: Final = 16


class _Begun(NamedTuple):
    """A request that left the line: when, in seconds with a line, and the tokens of all that had left by then."""

    at_s: float
    tokens: int


class ServiceRate:
    """The pace of the last 16 requests that had to wait.

    Time without a line does not count: a replica that nobody asks is not a slow one. Time in which the line stands
    still does. Pure: the clock is passed in, in seconds.
    """

    def __init__(self) -> None:
        self._begun: deque[_Begun] = deque(maxlen=_BEGUN_COUNT_MAX)
        self._line_s = 0.0
        self._seen_s = 0.0
        self._has_line = False
        self._tokens = 0

    def see(self, now_s: float, *, has_line: bool) -> None:
        """Notes whether somebody waits from now on."""
        self._line_s = self._until(now_s)
        self._seen_s, self._has_line = now_s, has_line

    def begin(self, now_s: float, tokens: int) -> None:
        """Notes that a request left the line for its place."""
        self._tokens += tokens
        self._begun.append(_Begun(self._until(now_s), self._tokens))

    def requests_s(self, now_s: float, requests: int) -> float | None:
        """In how many seconds so many requests leave the line; None while that is not known."""
        return self._seconds(now_s, requests, len(self._begun) - 1)

    def tokens_s(self, now_s: float, tokens: int) -> float | None:
        """The same for the tokens that they bring."""
        return self._seconds(now_s, tokens, self._tokens - self._begun[0].tokens if self._begun else 0)

    def _seconds(self, now_s: float, wanted: int, done: int) -> float | None:
        took_s = self._until(now_s) - self._begun[0].at_s if self._begun else 0.0
        return wanted * took_s / done if done > 0 and took_s > 0 else None

    def _until(self, now_s: float) -> float:
        return self._line_s + (now_s - self._seen_s if self._has_line else 0.0)
