"""When a process that died is started again. Pure: uptimes come in, delays go out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential delays between two bounds, forgotten after a healthy period.

    There is no jitter: one machine's handful of processes is no herd, and a restart that is always equally fast is
    easier to reason about.
    """

    delay_ms_min: int
    delay_ms_max: int
    healthy_ms: int

    def delay_ms(self, failures: int) -> int:
        """The delay before the restart that follows `failures` earlier ones in a row."""
        doublings = min(failures, 32)
        return int(min(self.delay_ms_max, self.delay_ms_min << doublings))


class Backoff:
    """One process's deaths in a row."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures = 0

    def next_delay_ms(self, uptime_ms: int) -> int:
        """The delay before the next start of a process that just died `uptime_ms` after its last one."""
        if uptime_ms >= self._policy.healthy_ms:
            self._failures = 0
        delay_ms = self._policy.delay_ms(self._failures)
        self._failures += 1
        return delay_ms
