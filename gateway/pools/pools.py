"""All pools of a gateway: which stand, in which order equals are asked, and what a turn's calls draw on. Pure."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.errors.v1 import errors_pb2

from gateway.pools.outcome import STANDING
from gateway.pools.pool import Pool
from gateway.pools.retries import RetryBudget
from gateway.pools.routing import Routes, Turn
from services.config import GatewaySettings, PoolSettings
from services.errors import IsthmusError

# Latencies that differ by less than this factor are alike: else sessions would wander with every millisecond.
_ALIKE: Final = 1.5


class Standing(enum.Enum):
    """Whether a pool takes a turn now."""

    OPEN = "takes turns"
    DRAINED = "is drained by hand"
    BROKEN = "has failed too often"
    BUSY = "has as many calls as it takes"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A pool that takes no turn now, why, and for how long as far as that is known."""

    pool: str
    standing: Standing
    wait_s: float = 0.0


class Pools:
    """Times are seconds of one monotonic clock; `uniform` gives random numbers from 0 to 1."""

    def __init__(self, settings: GatewaySettings, uniform: Callable[[], float]) -> None:
        self._settings = settings.resilience
        self._configured = settings.pools
        self._uniform = uniform
        self._pools: OrderedDict[str, Pool] = OrderedDict()
        self.routes: Final = Routes(settings)
        self.budget: Final = RetryBudget(settings.resilience.retry)
        # Pools that were drained by hand, and since when in ms since 1970.
        self.drained: Mapping[str, int] = {}
        self.turns = 0
        for name in settings.pools:
            self.get(name)

    def get(self, name: str) -> Pool:
        """The pool; one that is not configured begins when it is first heard of, and few of those are remembered."""
        pool = self._pools.get(name)
        if pool is None:
            known = self._configured.get(name)
            pool = self._pools[name] = Pool(
                name, known or PoolSettings(), self._settings, self._uniform, is_configured=known is not None
            )
            self._forget()
        return pool

    def known(self) -> list[Pool]:
        """All of which anything is known."""
        return list(self._pools.values())

    def blocked(self, name: str, tokens: int, now: float) -> Blocked | None:
        """Why a pool takes no turn with so many tokens now; None if it does."""
        if name in self.drained:
            return Blocked(name, Standing.DRAINED)
        pool = self.get(name)
        if not pool.breaker.permits(now):
            return Blocked(name, Standing.BROKEN, pool.breaker.wait_s(now))
        if not pool.limit.permits(tokens, now):
            return Blocked(name, Standing.BUSY, pool.limit.wait_s(tokens, now))
        return None

    def ordered(self, names: Iterable[str], turn: Turn, regions: Mapping[str, str], warm: str, now: float) -> list[str]:
        """Equals in the order in which they are asked: same region, then what was observed, then who has the window.

        `regions` are by pool, `warm` is the pool that served the session last. One of which nothing was observed lately
        comes before those of which something was, so that it is.
        """
        by_cost = (way := self.routes.way(turn)) is not None and way.by_cost

        def rank(name: str) -> tuple[bool, float, bool, float]:
            pool = self.get(name)
            elsewhere = bool(self._settings.region) and regions.get(name, "") != self._settings.region
            seconds = pool.latency.recent(now, self._settings.hedge.observed_ms_max / 1000)
            speed = -math.inf if seconds is None else math.floor(math.log(max(seconds, 1e-3), _ALIKE))
            cost = pool.expected_cost(turn.tokens)
            first, last = (cost, speed) if by_cost else (speed, cost)
            return elsewhere, first, name != warm, last

        return sorted(names, key=rank)

    def turn(self) -> None:
        """A turn is about to make its first call."""
        self.turns += 1
        self.budget.turn()

    def _forget(self) -> None:
        strangers = [name for name, pool in self._pools.items() if not pool.is_configured and not pool.limit.in_flight]
        for name in strangers[: max(0, len(strangers) - self._settings.pools_count_max)]:
            del self._pools[name]


def refusal(blocked: Iterable[Blocked]) -> IsthmusError:
    """The error of a turn that no pool takes, with the shortest wait after which one may."""
    each = sorted(set(blocked), key=lambda one: one.pool)
    waits = [one.wait_s for one in each if one.standing is not Standing.DRAINED]
    is_busy = any(one.standing is Standing.BUSY for one in each)
    reason = errors_pb2.ERROR_REASON_OVERLOADED if is_busy else errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    said = "; ".join(f"{one.pool} {one.standing.value}" for one in each)
    return IsthmusError(
        reason,
        f"no pool takes the turn now: {said}",
        metadata={STANDING: ",".join(f"{one.pool}={one.standing.name.lower()}" for one in each)},
        retry_after_ms=math.ceil(min(waits) * 1000) or None if waits else None,
    )
