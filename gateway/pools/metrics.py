"""Pools in Prometheus's format: read off when they are scraped, so that no call pays for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.pools.breaker import BreakerState
from gateway.pools.pool import Pool
from gateway.pools.pools import Pools

_BREAKER: Final = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 1.0, BreakerState.OPEN: 2.0}


class PoolMetrics(Collector):
    """A collector for the gateway's registry."""

    def __init__(self, pools: Pools, clock: Callable[[], float] = time.monotonic) -> None:
        self._pools = pools
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """All pools as they are now."""
        now = self._clock()
        gauges: dict[str, tuple[str, Callable[[Pool], float]]] = {
            "breaker_state": ("0 closed, 1 half open, 2 open.", lambda pool: _BREAKER[pool.breaker.state(now)]),
            "drained": ("1 while it is drained by hand.", lambda pool: float(pool.name in self._pools.drained)),
            "calls_in_flight": ("Calls now.", lambda pool: pool.limit.in_flight),
            "calls_limit": ("The most calls at once.", lambda pool: pool.limit.limit),
            "ttft_p95_seconds": ("To the first text, lately.", lambda pool: pool.latency.quantile(0.95)),
            "error_share": ("Of the calls in the breaker's window.", lambda pool: pool.breaker.error_share(now)),
        }
        counters: dict[str, tuple[str, Callable[[Pool], float]]] = {
            "calls": ("Calls for replies.", lambda pool: pool.counts.calls),
            "calls_failed": ("Calls that the provider failed.", lambda pool: pool.counts.failed),
            "calls_refused": ("Calls that the provider refused as too many.", lambda pool: pool.counts.refused),
            "hedges": ("Calls made beside a slow one.", lambda pool: pool.counts.hedges),
            "cost": ("Of the replies, by the pool's prices.", lambda pool: pool.counts.cost),
        }
        pools = self._pools.known()
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"isthmus_pool_{name}", text, labels=("pool",))
            for pool in pools:
                gauge.add_metric((pool.name,), value(pool))
            yield gauge
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(f"isthmus_pool_{name}", text, labels=("pool",))
            for pool in pools:
                counter.add_metric((pool.name,), value(pool))
            yield counter
        # Calls over turns is what a turn costs its providers.
        yield CounterMetricFamily("isthmus_pool_turns", "Turns handed over to any pool.", value=self._pools.turns)
        yield GaugeMetricFamily(
            "isthmus_pool_retry_budget",
            "Calls beyond one a turn that may be made now.",
            value=self._pools.budget.balance,
        )
