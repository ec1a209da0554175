"""Milliseconds counted in buckets one percent wide: percentiles of any number of turns, in bounded memory. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil, log
from typing import Final, Self

_GROWTH: Final = 1.01
_MS_MIN: Final = 0.01
# Longer than any turn may take.
_MS_MAX: Final = 3_600_000.0
_LOG: Final = log(_GROWTH)


class Histogram:
    """How often what took how long. A percentile is at most one percent above what was measured."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: Counter[int] = Counter(counts or {})

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, ms: float) -> None:
        """Counts a time; below 0.01 ms it is 0.01 ms, above an hour an hour."""
        self._counts[ceil(log(min(max(ms, _MS_MIN), _MS_MAX) / _MS_MIN) / _LOG)] += 1

    def merged(self, other: Self) -> Histogram:
        """The times of both."""
        return Histogram(self._counts + other._counts)

    def percentile(self, share: float) -> float:
        """What at least `share` of all times do not exceed (nearest rank).

        Raises ValueError without times, or for a share that is not in (0, 1].
        """
        if not self._counts:
            raise ValueError("histogram: expected at least one time")
        if not 0 < share <= 1:
            raise ValueError(f"share: expected more than 0 and at most 1, got {share}")
        rank, passed = ceil(share * len(self)), 0
        for bucket in sorted(self._counts):
            passed += self._counts[bucket]
            if passed >= rank:
                return float(_MS_MIN * _GROWTH**bucket)
        raise AssertionError("the last bucket has the last rank")

    def told(self) -> dict[str, int]:
        """As JSON has it; `of` reads it."""
        return {str(bucket): count for bucket, count in self._counts.items()}

    @classmethod
    def of(cls, told: Mapping[str, int]) -> Histogram:
        """The histogram that another process told."""
        return Histogram({int(bucket): count for bucket, count in told.items()})
