"""Keeps a turn's lease alive while the turn is driven."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def kept(renew: Callable[[], Awaitable[object]], stop: Stop, lease_ms: int) -> Iterator[None]:
    """Calls `renew` every third of the lease while inside; a lease that is lost pulls `stop`."""
    every_s = lease_ms / 1000 / _RENEWALS_PER_LEASE
    keeper: asyncio.Task[None] | None = None

    def begin() -> None:
        nonlocal keeper
        keeper = asyncio.create_task(_keep(renew, stop, every_s))

    # A timer until then: most turns are over before the first renewal, and need no task for it.
    timer = asyncio.get_running_loop().call_later(every_s, begin)
    try:
        yield
    finally:
        timer.cancel()
        if keeper is not None:
            keeper.cancel()


async def _keep(renew: Callable[[], Awaitable[object]], stop: Stop, every_s: float) -> None:
    while True:
        try:
            await renew()
        except IsthmusError as error:
            # A shard that is away or slow may be back before the lease lapses; whether it was, the commit will say.
            if error.reason in NOT_OURS:
                stop.pull(error)
                return
        await asyncio.sleep(every_s)
