"""Limits as the edges ask for them: requests are taken, turns hold tickets, and what they cost is settled."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog
from redis.exceptions import RedisError

from gateway.background import Background
from gateway.identity import new_id
from gateway.limits import call
from gateway.limits.address import networks
from gateway.limits.metrics import LimitMetrics
from gateway.limits.overrides import KnownOverrides
from gateway.limits.refused import RefusedCallers
from services.config import Settings
from services.errors import IsthmusError
from services.limits.callers import Caller, Defaults
from services.limits.keeper import Meters
from services.limits.standing import Cost, Standing, obstacles, refusal
from services.long_task import LongTask
from services.valkey import Acknowledger, Client
from services.valkey.failover import expected

T = TypeVar("T")
# Of concurrent turns nobody knows when one ends.
_TURN_WAIT_MS: Final = 1_000
_RENEWALS_PER_LEASE: Final = 3
_log: Final = structlog.get_logger("limits")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a turn, or a batch of embeddings, holds of its callers' limits until it is settled."""

    id: str
    callers: tuple[Caller, ...]


class Limiter:
    """The limits of a gateway's callers. Where a call has none, it costs nothing.

    Refuses with RATE_LIMITED, or BUDGET_EXHAUSTED; while Valkey is away, with UPSTREAM_UNAVAILABLE.
    """

    def __init__(
        self,
        valkey: Client,
        settings: Settings,
        metrics: LimitMetrics,
        *,
        ticks: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        limits = settings.gateway.limits
        self._settings = limits
        self._metrics = metrics
        self._ticks = ticks
        self._random_bytes = random_bytes
        self._defaults = Defaults(limits.tenant, limits.user, limits.address)
        self._overrides = KnownOverrides(valkey, limits)
        self._acknowledger = Acknowledger(valkey, settings.valkey)
        self._meters = Meters(self._acknowledger, limits.lease_ms)
        self._refused = RefusedCallers(limits.refused_count_max)
        self._refused_version = self._overrides.version
        self._held: dict[str, Ticket] = {}
        self._renewing = LongTask()
        self._background = Background()
        self._settle_s_max = settings.gateway.fail_turn_ms_max / 1000
        self.proxies_trusted = networks(limits.proxies_trusted)

    async def start(self) -> None:
        """Reads tenants' own limits, and renews what turns hold from now on."""
        await self._overrides.start()
        self._renewing.start(self._renew(), "renew limits")

    async def stop(self) -> None:
        """Waits for what is being settled; to be called before the client of Valkey closes."""
        await self._background.ended(self._settle_s_max)
        await self._renewing.stop()
        await self._overrides.stop()
        await self._acknowledger.aclose()

    def callers(self, tenant: str, user: str = "") -> tuple[Caller, ...]:
        """Whose limits the call being served has to keep; none where there are none."""
        return self._defaults.limited(tenant, user, call.current().address, self._overrides.of(tenant))

    def check(self, callers: Sequence[Caller]) -> None:
        """Refuses whom this gateway knows to have no request left, without a trip."""
        if self._refused_version != self._overrides.version:
            self._refused.forget()
            self._refused_version = self._overrides.version
        known = self._refused.find(callers, self._ticks())
        if known is not None:
            found, standing = known
            call.current().standing = standing
            self._metrics.refused(found)
            raise refusal(found)

    async def request(self, tenant: str) -> None:
        """Takes a request, and nothing else."""
        callers = self.callers(tenant)
        if callers:
            self.check(callers)
            self._judge(callers, Cost(), await _asked(self._meters.take(callers, Cost())))

    async def hold(self, callers: tuple[Caller, ...], cost: Cost) -> Ticket:
        """Takes the cost, and a place among concurrent turns; `settle` has to follow.

        The request of one call is taken once, however many turns it comes to.
        """
        this = call.current()
        cost = replace(cost, requests=0 if this.is_counted else cost.requests)
        if cost.requests:
            self.check(callers)
        ticket = Ticket(new_id(self._random_bytes, "ticket"), callers)
        taking = self._background.start(self._meters.take(callers, cost, ticket.id), "take limits")
        try:
            standing = await _asked(asyncio.shield(taking))
        except asyncio.CancelledError:
            self._background.start(self._untaken(taking, ticket), "settle limits")
            raise
        self._judge(callers, cost, standing)
        self._held[ticket.id] = ticket
        return ticket

    async def settle(self, ticket: Ticket, cost: Cost) -> None:
        """What it has cost, in place of what was taken. Goes on where the caller is cancelled; a second time is none.

        Where Valkey is away what was taken stands, and the place is free once its lease has ended.
        """
        if self._held.pop(ticket.id, None) is not None:
            await self._background.finish(self._settled(ticket, cost), "settle limits")

    def _judge(self, callers: Sequence[Caller], cost: Cost, standing: Standing) -> None:
        this = call.current()
        this.standing = standing
        if standing.is_taken:
            this.is_counted = True
            return
        found = obstacles(standing, cost, _TURN_WAIT_MS)
        self._metrics.refused(found)
        self._refused.note(callers[0].name, found, standing, self._ticks())
        raise refusal(found)

    async def _untaken(self, taking: asyncio.Task[Standing], ticket: Ticket) -> None:
        await taking
        await self._settled(ticket, Cost(requests=0))

    async def _settled(self, ticket: Ticket, cost: Cost) -> None:
        try:
            await self._meters.settle(ticket.callers, ticket.id, cost)
        except RedisError as error:
            _log.warning("limits not settled, what was taken stands", tenant=ticket.callers[0].name, error=str(error))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_ms / 1000 / _RENEWALS_PER_LEASE)
            held = [self._meters.renew(ticket.callers, ticket.id) for ticket in self._held.values()]
            failed = [each for each in await asyncio.gather(*held, return_exceptions=True) if each is not None]
            if failed:
                _log.warning("limits not renewed", count=len(failed), error=str(failed[0]))


async def _asked(asking: Awaitable[T]) -> T:
    try:
        return await asking
    except RedisError as error:
        away: IsthmusError | None = expected(error)
        if away is None:
            raise
        raise away from error
