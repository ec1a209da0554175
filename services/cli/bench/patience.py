"""Calls that are refused for now are made again, when their RetryInfo says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc

from services.errors import from_rpc_error, reason_name

T = TypeVar("T")

_PATIENCE_S_MAX: Final = 600.0


class Patience:
    """Counts by reason what was refused and made again. Errors without RetryInfo are the caller's at once."""

    def __init__(self, patience_s_max: float = _PATIENCE_S_MAX) -> None:
        self._s_max = patience_s_max
        self.refusals: Counter[str] = Counter()

    async def done(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the call answers in the end; its last error when it is refused for too long."""
        deadline = time.monotonic() + self._s_max
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                told = from_rpc_error(error)
                if told.retry_after_ms is None or time.monotonic() > deadline:
                    raise
                self.refusals[reason_name(told.reason)] += 1
                await asyncio.sleep(told.retry_after_ms / 1_000)
