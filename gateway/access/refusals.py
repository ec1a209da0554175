"""Refused calls in the log: each one, up to so many within a second, and the others of that second as one count."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

_WINDOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who was refused, what, where from, why.

    `key` is the id that was shown, of a token its user; `tenant` is told if the secret fitted.
    """

    what: str
    peer: str
    reason: str
    key: str = ""
    tenant: str = ""


class Tally:
    """Decides which refusals are told one by one; the rest of each second is counted. Pure; times are in seconds."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._since: float | None = None
        self._told = 0
        self._untold: Counter[str] = Counter()

    def tells(self, reason: str, now: float) -> bool:
        """Whether this refusal is told by itself; otherwise it is counted until `close`."""
        if self._since is None:
            self._since, self._told = now, 0
        if self._told < self._count_max:
            self._told += 1
            return True
        self._untold[reason] += 1
        return False

    def closes_in(self, now: float) -> float | None:
        """Seconds until this second is over; None where none has begun."""
        return None if self._since is None else max(0.0, self._since + _WINDOW_S - now)

    def close(self) -> dict[str, int]:
        """Ends the second: how many were not told, by reason."""
        untold, self._untold, self._since = dict(self._untold), Counter(), None
        return untold


class RefusalLog:
    """Writes refusals to the log within their bound."""

    def __init__(self, count_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally = Tally(count_max)
        self._clock = clock
        self._log: Any = structlog.get_logger("audit")
        self._closing: asyncio.TimerHandle | None = None

    def refused(self, refusal: Refusal) -> None:
        """A call was refused; told now, or with this second's count."""
        if self._tally.tells(refusal.reason, self._clock()):
            self._log.warning(
                "access_refused",
                what=refusal.what,
                peer=refusal.peer,
                reason=refusal.reason,
                key=refusal.key,
                tenant=refusal.tenant,
            )
        if self._closing is None:
            delay = self._tally.closes_in(self._clock()) or 0.0
            self._closing = asyncio.get_running_loop().call_later(delay, self.close)

    def close(self) -> None:
        """Tells what this second has left untold."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if untold := self._tally.close():
            self._log.warning("access_refused_more", count=sum(untold.values()), reasons=untold)
