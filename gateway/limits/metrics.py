"""Counts of what limits refuse, and the line before turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.metrics import SECONDS
from services.limits.standing import Obstacle


class LimitMetrics:
    """Counted from the start, told by the registry that they are given to."""

    def __init__(self) -> None:
        self._refused = Counter(
            "isthmus_limit_refusals",
            "Limits in the way of refused calls: of whom, and which.",
            ("of", "limit"),
            registry=None,
        )
        self._shed = Counter(
            "isthmus_queue_refusals", "Turns that the line before turns refused.", ("why",), registry=None
        )
        self._turns = Gauge("isthmus_queue_turns", "Turns that wait for a place.", registry=None)
        self._tokens = Gauge("isthmus_queue_tokens", "Estimated tokens of the turns that wait.", registry=None)
        self._wait = Histogram(
            "isthmus_queue_wait_seconds", "How long turns waited that had to.", buckets=SECONDS, registry=None
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Has the registry tell them."""
        for each in (self._refused, self._shed, self._turns, self._tokens, self._wait):
            registry.register(each)

    def watch(self, turns: Callable[[], int], tokens: Callable[[], int]) -> None:
        """Where the line's length is to be read."""
        self._turns.set_function(turns)
        self._tokens.set_function(tokens)

    def refused(self, found: Sequence[Obstacle]) -> None:
        """A call met these limits."""
        for each in found:
            self._refused.labels(each.caller.kind.value, (each.way.name or "").lower()).inc()

    def shed(self, why: str) -> None:
        """A turn was refused by the line: it is `full`, it moves too `slow`, or the turn came to wait too `long`."""
        self._shed.labels(why).inc()

    def waited(self, seconds: float) -> None:
        """A turn had to wait, and has its place."""
        self._wait.observe(seconds)
