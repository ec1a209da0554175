"""One pool as a gateway has come to know it: breakers, limit, latency and cost. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.pools.breaker import Breaker, BreakerState
from gateway.pools.latency import Latency
from gateway.pools.limit import AdaptiveLimit
from gateway.pools.outcome import Verdict
from services.config import PoolSettings, ResilienceSettings

# Replicas of one pool whose breakers are remembered; those heard of last are kept.
_REPLICAS_COUNT_MAX: Final = 256
_SMOOTHING: Final = 0.1
_MILLION: Final = 1_000_000


@dataclass(slots=True)
class Call:
    """One call in flight; `is_probe` and `is_replica_probe` say that a half-open breaker waits for its end."""

    member_id: str
    is_probe: bool
    is_replica_probe: bool
    has_ended: bool = False
    is_judged: bool = False


@dataclass(slots=True)
class Counts:
    """Since the gateway began."""

    calls: int = 0
    failed: int = 0
    refused: int = 0
    hedges: int = 0
    cost: float = 0.0


class Pool:
    """Times are seconds of one monotonic clock."""

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        resilience: ResilienceSettings,
        uniform: Callable[[], float],
        *,
        is_configured: bool,
    ) -> None:
        self.name: Final = name
        self.settings: Final = settings
        self.is_configured: Final = is_configured
        self.breaker: Final = Breaker(resilience.breaker, uniform)
        self.limit: Final = AdaptiveLimit(settings.calls_count_max)
        self.latency: Final = Latency()
        self.counts: Final = Counts()
        self._resilience = resilience
        self._uniform = uniform
        self._replicas: OrderedDict[str, Breaker] = OrderedDict()
        # Output tokens of a reply, and the share of a prompt that was cached, on average.
        self._output_tokens = 0.0
        self._cached_share = 0.0

    def replica_state(self, member_id: str, now: float) -> BreakerState:
        """The state of a replica's breaker."""
        breaker = self._replicas.get(member_id)
        return BreakerState.CLOSED if breaker is None else breaker.state(now)

    def is_replica_broken(self, member_id: str, now: float) -> bool:
        """Whether a replica takes no call for its own failures."""
        breaker = self._replicas.get(member_id)
        return breaker is not None and not breaker.permits(now)

    def began(self, member_id: str, tokens: int, now: float) -> Call:
        """A call begins."""
        self.limit.began(tokens)
        return Call(member_id, self.breaker.began(now), self._breaker_of(member_id).began(now))

    def called(self) -> None:
        """A call for a reply goes out."""
        self.counts.calls += 1

    def answered(self, seconds: float, now: float) -> None:
        """A call has its first text."""
        self.latency.add(seconds, now)

    def succeeded(self, call: Call, now: float) -> None:
        """A call that is still in flight has its whole reply."""
        if not self._judge(call):
            return
        self.limit.succeeded()
        self.breaker.succeeded(now, is_probe=call.is_probe)
        self._breaker_of(call.member_id).succeeded(now, is_probe=call.is_replica_probe)

    def failed(self, call: Call, verdict: Verdict, now: float, retry_after_s: float = 0.0) -> None:
        """A call that is still in flight has failed."""
        if verdict not in (Verdict.FAILED, Verdict.REFUSED) or not self._judge(call):
            return
        if verdict is Verdict.REFUSED:
            self.counts.refused += 1
            self.limit.refused(retry_after_s, now)
            self._abandon(call)
            return
        self.counts.failed += 1
        self.breaker.failed(now, is_probe=call.is_probe)
        self._breaker_of(call.member_id).failed(now, is_probe=call.is_replica_probe)

    def ended(self, call: Call) -> None:
        """A call is over, however it ended; a second time changes nothing."""
        if call.has_ended:
            return
        call.has_ended = True
        self.limit.ended()
        if self._judge(call):
            self._abandon(call)

    def used(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """A reply's tokens: what it cost, and what others like it may."""
        self.counts.cost += self._cost(prompt_tokens, cached_tokens, output_tokens)
        share = min(1.0, cached_tokens / prompt_tokens) if prompt_tokens else 0.0
        self._output_tokens += (
            _SMOOTHING * (output_tokens - self._output_tokens) if self._output_tokens else output_tokens
        )
        self._cached_share += _SMOOTHING * (share - self._cached_share)

    def expected_cost(self, prompt_tokens: int) -> float:
        """What a turn with such a prompt will cost, by the pool's prices and what was observed."""
        return self._cost(prompt_tokens, int(prompt_tokens * self._cached_share), int(self._output_tokens))

    def hedge_after_s(self) -> float | None:
        """After how long without a text a call may have company; None where it may not, or that is not known."""
        hedge = self._resilience.hedge
        if not (self.is_configured and self.settings.hedge) or self.latency.count < hedge.samples_count_min:
            return None
        return max(self.latency.quantile(hedge.quantile), hedge.wait_ms_min / 1000)

    def _cost(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        prices = self.settings.prices
        read = (prompt_tokens - cached_tokens) * prices.input_per_million
        return (
            read + cached_tokens * prices.cached_input_per_million + output_tokens * prices.output_per_million
        ) / _MILLION

    def _judge(self, call: Call) -> bool:
        """Whether this is the first word on how the call ended."""
        is_first = not call.is_judged
        call.is_judged = True
        return is_first

    def _abandon(self, call: Call) -> None:
        self.breaker.abandoned(is_probe=call.is_probe)
        self._breaker_of(call.member_id).abandoned(is_probe=call.is_replica_probe)

    def _breaker_of(self, member_id: str) -> Breaker:
        breaker = self._replicas.get(member_id)
        if breaker is None:
            breaker = self._replicas[member_id] = Breaker(self._resilience.breaker, self._uniform)
            while len(self._replicas) > _REPLICAS_COUNT_MAX:
                self._replicas.popitem(last=False)
        return breaker
