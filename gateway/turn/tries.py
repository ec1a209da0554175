"""How often one turn calls providers: after a failure elsewhere, at last the same one again, as the budget allows."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TypeAlias

from gateway.models.replicas import Replica
from gateway.pools.outcome import Verdict, is_settled, judge
from gateway.pools.pools import Pools
from gateway.retry import is_transient
from services.config import RetrySettings
from services.errors import IsthmusError

Pick: TypeAlias = Callable[[], Replica]


def is_worth_waiting(error: Exception) -> bool:
    """Whether a replica may be there a moment later; a provider that failed is tried again by `Tries` alone."""
    return is_transient(error) and isinstance(error, IsthmusError) and not is_settled(error)


class Tries:
    """The calls of one turn."""

    def __init__(self, pools: Pools, settings: RetrySettings) -> None:
        self._pools = pools
        self._settings = settings
        self._is_counted = False
        self._calls = 0
        self._waits = 0
        # The provider's failure after which the next call is one more than the turn has by itself.
        self._failure: IsthmusError | None = None
        # Replicas whose providers have failed in this turn, and their pools.
        self.failed_at: set[str] = set()
        self._pools_failed: set[str] = set()
        # Whether the latest call was drawn from the budget, for a pool that has not failed.
        self._is_elsewhere = False

    def turn(self) -> None:
        """The turn is handed over; planned anew, it is the same one."""
        if not self._is_counted:
            self._is_counted = True
            self._pools.turn()

    async def next(self, pick: Pick, until: float) -> Replica:
        """The replica for the next call. Raises what `pick` raises, or the failure that was the last one."""
        failure = self._failure
        if failure is None:
            return self._called(pick())
        self._check(failure)
        try:
            replica = pick()
        except IsthmusError:
            if judge(failure) is not Verdict.FAILED:
                raise failure from None
            replica = await self._again(pick, failure, until)
        self._pools.budget.draw()
        self._is_elsewhere = replica.pool not in self._pools_failed
        return self._called(replica)

    def hedge(self, pick: Pick) -> Replica | None:
        """A replica for a second call beside the one that is slow; None where there is none, or no budget for it."""
        if self._calls >= self._settings.calls_count_max or not self._pools.budget.is_enough_to_hedge:
            return None
        try:
            replica = pick()
        except IsthmusError:
            return None
        self._pools.budget.draw()
        self._pools.get(replica.pool).counts.hedges += 1
        return self._called(replica)

    def failed(self, replica: Replica, error: IsthmusError) -> bool:
        """A call ended with an error; whether it was its provider's, so that `next` decides what is next."""
        if judge(error) not in (Verdict.FAILED, Verdict.REFUSED):
            # No provider was called.
            self._calls -= 1
            return False
        self._failure = error
        self.failed_at.add(replica.member_id)
        self._pools_failed.add(replica.pool)
        self._is_elsewhere = False
        return True

    def answered(self) -> None:
        """A call has text."""
        self._failure = None

    def finished(self) -> None:
        """A call has its whole reply."""
        if self._is_elsewhere:
            self._is_elsewhere = False
            self._pools.budget.give_back()

    async def _again(self, pick: Pick, failure: IsthmusError, until: float) -> Replica:
        """Where it failed before, after a wait."""
        longest = min(self._settings.wait_ms_min * 2**self._waits, self._settings.wait_ms_max) / 1000
        wait_s = longest * random.uniform(0.5, 1.0)  # noqa: S311
        if time.monotonic() + wait_s > until:
            raise failure
        self._waits += 1
        await asyncio.sleep(wait_s)
        self._check(failure)
        self.failed_at.clear()
        try:
            return pick()
        except IsthmusError:
            raise failure from None

    def _check(self, failure: IsthmusError) -> None:
        if self._calls >= self._settings.calls_count_max or not self._pools.budget.is_enough:
            raise failure

    def _called(self, replica: Replica) -> Replica:
        self._calls += 1
        return replica
