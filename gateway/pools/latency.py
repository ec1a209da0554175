"""How long calls took lately: a sliding window of the last so many, its quantiles and a moving average. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

# Enough for a 95th percentile that one outlier does not make.
SAMPLES_COUNT_MAX: Final = 256
_SMOOTHING: Final = 0.2


class Latency:
    """Seconds to the first text."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES_COUNT_MAX)
        self._mean = 0.0
        self._at = -math.inf

    @property
    def count(self) -> int:
        """Samples that are known."""
        return len(self._samples)

    def add(self, seconds: float, now: float) -> None:
        """One more."""
        self._mean = seconds if not self._samples else self._mean + _SMOOTHING * (seconds - self._mean)
        self._samples.append(seconds)
        self._at = now

    def quantile(self, share: float) -> float:
        """The smallest sample that no more than `1 - share` of them exceed; 0 where there is none."""
        if not self._samples:
            return 0.0
        ordered = sorted(self._samples)
        return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]

    def recent(self, now: float, seconds_max: float) -> float | None:
        """The moving average; None where the last sample is older than that, so that who was slow once is tried."""
        return self._mean if self._samples and now - self._at <= seconds_max else None
