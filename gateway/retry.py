"""When a call behind the gateway is made again, and how long that goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
from isthmus.errors.v1 import errors_pb2

from services.config import GatewaySettings
from services.errors import IsthmusError

T = TypeVar("T")

# Less than that is no time to try again in; stamina takes 0 for a mistake.
_SECONDS_MIN: Final = 0.001

# The room behind may be back, or replaced on the ring, the next time.
_TRANSIENT: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        errors_pb2.ERROR_REASON_NOT_READY,
        errors_pb2.ERROR_REASON_REVISION_CONFLICT,
        errors_pb2.ERROR_REASON_NOT_REPLICATED,
        errors_pb2.ERROR_REASON_SESSION_MOVED,
    }
)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    return isinstance(error, IsthmusError) and error.reason in _TRANSIENT


async def retrying(
    call: Callable[[], Awaitable[T]],
    settings: GatewaySettings,
    seconds_max: float,
    on: Callable[[Exception], bool] = is_transient,
) -> T:
    """The call's answer; transient errors, or those that `on` takes, are tried again for `seconds_max`, the last one is
    raised.
    """
    begun = time.monotonic()
    # Nearly all calls are made once, and what makes more of them costs as much as a call itself.
    try:
        return await call()
    except IsthmusError as error:
        seconds_max -= time.monotonic() - begun
        if not on(error) or seconds_max <= settings.retry_wait_ms_min / 1000:
            raise
    await asyncio.sleep(settings.retry_wait_ms_min / 1000)
    seconds_max -= settings.retry_wait_ms_min / 1000
    async for attempt in stamina.retry_context(
        on=on,
        attempts=None,
        timeout=max(seconds_max, _SECONDS_MIN),
        wait_initial=settings.retry_wait_ms_min / 1000,
        wait_max=settings.retry_wait_ms_max / 1000,
        wait_jitter=settings.retry_wait_ms_min / 1000,
    ):
        with attempt:
            return await call()
    raise AssertionError("a retry ends with an answer or an error")
