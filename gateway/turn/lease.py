"""Keeps a turn's lease alive while the turn is driven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from isthmus.errors.v1 import errors_pb2

from gateway.turn.driven import Stop
from services.errors import IsthmusError

# The store has closed the turn, or given it to another driver.
NOT_OURS: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_LEASE_LOST,
        errors_pb2.ERROR_REASON_TURN_CANCELLED,
        errors_pb2.ERROR_REASON_TURN_STATE,
        errors_pb2.ERROR_REASON_NOT_FOUND,
    }
)

# Two renewals may fail before the lease lapses.
_RENEWALS_PER_LEASE = 3


@asynccontextmanager
async def kept(renew: Callable[[], Awaitable[object]], stop: Stop, lease_ms: int) -> AsyncIterator[None]:
    """Calls `renew` every third of the lease while inside; a lease that is lost pulls `stop`."""
    keeper = asyncio.create_task(_keep(renew, stop, lease_ms))
    try:
        yield
    finally:
        keeper.cancel()


async def _keep(renew: Callable[[], Awaitable[object]], stop: Stop, lease_ms: int) -> None:
    while True:
        await asyncio.sleep(lease_ms / 1000 / _RENEWALS_PER_LEASE)
        try:
            await renew()
        except IsthmusError as error:
            # A shard that is away or slow may be back before the lease lapses; whether it was, the commit will say.
            if error.reason in NOT_OURS:
                stop.pull(error)
                return
