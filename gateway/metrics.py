"""Counts and times of turns, whichever edge they came in by."""

from __future__ import annotations

from typing import Final

from isthmus.session.v1 import turn_pb2
from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class TurnMetrics:
    """The gateway's own registry, since several gateways may live in one process, and the turns in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._turns = Counter(
            "isthmus_turns", "Calls for a turn, by how they ended.", ("outcome",), registry=self.registry
        )
        self._ttft = Histogram(
            "isthmus_turn_ttft_seconds",
            "From a turn's first byte in to its first text out.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "isthmus_refused_tries",
            "Tries of replies that a check refused, of turns done here.",
            ("check",),
            registry=self.registry,
        )
        self._tokens = Counter("isthmus_tokens", "Tokens of turns done here.", ("kind",), registry=self.registry)

    def done(self, receipt: turn_pb2.Receipt) -> None:
        """A turn that was driven here has its reply durable."""
        self._turns.labels("done").inc()
        self._ttft.observe(receipt.ttft_ms / 1000)
        for tried in receipt.refused_tries:
            self._refused.labels(tried.check).inc()
        for tokens in (receipt.tokens, *(tried.tokens for tried in receipt.refused_tries)):
            self._tokens.labels("new").inc(tokens.new_tokens)
            self._tokens.labels("reused").inc(tokens.reused_tokens)
            self._tokens.labels("cached").inc(tokens.cached_tokens)
            self._tokens.labels("output").inc(tokens.output_tokens)

    def replayed(self) -> None:
        """A call got the reply of a turn that another call drove, or had driven."""
        self._turns.labels("replayed").inc()

    def failed(self, reason: str) -> None:
        """A call came to nothing; `reason` is one of the contract's in small letters, or `client_gone`."""
        self._turns.labels(reason).inc()
