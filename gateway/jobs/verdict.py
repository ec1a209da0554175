"""Whether a job whose attempt failed gets another one, and when. Pure: the random number is passed in."""

from __future__ import annotations

from typing import Final

from isthmus.errors.v1 import errors_pb2

from services.config import JobSettings
from services.errors import IsthmusError

_TRANSIENT: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        errors_pb2.ERROR_REASON_NOT_READY,
        errors_pb2.ERROR_REASON_OVERLOADED,
        errors_pb2.ERROR_REASON_RATE_LIMITED,
        errors_pb2.ERROR_REASON_REVISION_CONFLICT,
        errors_pb2.ERROR_REASON_NOT_REPLICATED,
        errors_pb2.ERROR_REASON_SESSION_MOVED,
        errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
        # Another delivery has the turn: it was given up for lost, and was not.
        errors_pb2.ERROR_REASON_LEASE_LOST,
    }
)


def delay_ms(error: IsthmusError, attempt: int, settings: JobSettings, random: float) -> int | None:
    """The wait after an attempt, numbered from 1 on, that failed; None where no other would help, or none is left.

    `random` is in [0, 1). The wait is never shorter than the error's RetryInfo, within `retry_ms_max`.
    """
    if error.reason not in _TRANSIENT or attempt >= settings.attempts_count_max:
        return None
    wait_ms = backoff_ms(attempt, settings.retry_ms_min, settings.retry_ms_max, random)
    return max(wait_ms, min(error.retry_after_ms or 0, settings.retry_ms_max))


def backoff_ms(attempt: int, ms_min: int, ms_max: int, random: float) -> int:
    """The wait after an attempt, numbered from 1 on: doubled each time up to `ms_max`, half of it by chance."""
    # The bound keeps the power small; 2**40 ms are 35 years.
    longest = min(ms_min << min(attempt - 1, 40), max(ms_min, ms_max))
    return max(1, int(longest * (0.5 + random / 2)))
