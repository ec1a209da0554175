"""What a meter reads: a bucket that holds a minute's worth and leaks evenly over a minute.

The leaky bucket as a meter (ITU-T I.371, which proves it the same as GCRA): so much may come at once as the bucket
holds, and in any `t` seconds not more than that and what leaks in `t`. `scripts/meters.lua` fills and empties it; this
says what its readings mean. Pure; levels are in millionths, times in microseconds of Valkey's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MICROS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Meter:
    """How full a bucket is that was filled to `level` at `at_us`; `limit` is what it holds, and leaks in a minute."""

    limit: int
    level: int
    at_us: int

    def level_at(self, now_us: int) -> int:
        """What is left in it, as the scripts count."""
        return max(0, self.level - max(0, now_us - self.at_us) * self.limit // 60)

    def remaining(self, now_us: int) -> int:
        """How much may come at once."""
        return max(0, self.limit * MICROS - self.level_at(now_us)) // MICROS

    def reset_us(self, now_us: int) -> int:
        """In how long it is empty, if nothing comes."""
        return -(-self.level_at(now_us) * 60 // self.limit)

    def wait_us(self, now_us: int, amount: int) -> int:
        """In how long so much may come, 0 for now. What is more than it holds may come when it is empty."""
        over = self.level_at(now_us) + min(amount, self.limit) * MICROS - self.limit * MICROS
        return -(-max(0, over) * 60 // self.limit)
