"""Limits in Valkey: what tenants may use up, and what they have used. One trip a call, whatever it takes.

`isthmus:{limits}:overrides` is a hash of tenant -> JSON of its own limits, `isthmus:{limits}:version` rises with every
change of it. What is used lies in the tenant's slot: `isthmus:{limits:<tenant>}:used:<caller>`, `…:turns:<caller>` and
`…:ticket:<id>`, each with a time to live. Time is Valkey's alone. Nothing here waits for replicas but a change of
limits: a failover may forget what was used in its last moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from msgspec import MsgspecError

from services.config import LimitsSettings
from services.errors import IsthmusError
from services.limits.callers import Caller, Override, decode, encode
from services.limits.standing import Cost, Standing
from services.valkey import Acknowledger, Argument, Client, Script, command

OVERRIDES_KEY: Final = "isthmus:{limits}:overrides"
VERSION_KEY: Final = "isthmus:{limits}:version"
_SCRIPTS: Final = Path(__file__).parent / "scripts"
_METERS: Final = Script(_SCRIPTS / "meters.lua")
_OVERRIDE: Final = Script(_SCRIPTS / "override.lua")
_NOTHING: Final = Cost(requests=0)
_log: Final = structlog.get_logger("limits")


class Meters:
    """What callers have used. Raises redis' errors. All callers of one call are of one tenant, which is the first."""

    def __init__(self, acknowledger: Acknowledger, lease_ms: int) -> None:
        self._acknowledger = acknowledger
        self._lease_ms = lease_ms

    async def take(self, callers: Sequence[Caller], cost: Cost, ticket: str = "") -> Standing:
        """Takes the cost of all callers or of none; a ticket also takes a place among their concurrent turns."""
        return await self._run("take", callers, ticket, cost)

    async def settle(self, callers: Sequence[Caller], ticket: str, cost: Cost) -> Standing:
        """Puts what it cost in place of what was taken, and gives the place back. A second time changes nothing."""
        return await self._run("settle", callers, ticket, cost)

    async def renew(self, callers: Sequence[Caller], ticket: str) -> None:
        """Keeps the ticket's place for another lease."""
        await self._run("renew", callers, ticket, _NOTHING)

    async def look(self, callers: Sequence[Caller]) -> Standing:
        """How they stand now."""
        return await self._run("look", callers, "", _NOTHING)

    async def _run(self, operation: str, callers: Sequence[Caller], ticket: str, cost: Cost) -> Standing:
        slot = f"isthmus:{{limits:{callers[0].name}}}"
        keys = [f"{slot}:ticket:{ticket}"]
        arguments: list[Argument] = [operation, ticket, self._lease_ms, cost.requests, cost.tokens, cost.micros]
        for caller in callers:
            keys += [f"{slot}:used:{caller.part}", f"{slot}:turns:{caller.part}"]
            limits = caller.limits
            arguments += [
                _number(limits.requests_per_minute),
                _number(limits.tokens_per_minute),
                _number(limits.turns_concurrent),
                _number(limits.budget_monthly_micros),
            ]
        return Standing.parse(callers, await self._acknowledger.shared(_METERS, keys, arguments))


class Overrides:
    """Tenants' own limits. Raises redis' errors."""

    def __init__(self, valkey: Client) -> None:
        self._valkey = valkey

    async def version(self) -> int:
        """Another one after every change."""
        return int(await command(self._valkey, "GET", VERSION_KEY) or 0)

    async def all(self) -> dict[str, Override]:
        """By tenant; those that cannot be read are left out."""
        stored = await command(self._valkey, "HGETALL", OVERRIDES_KEY)
        read = {name.decode(): _read(name, value) for name, value in stored.items()}
        return {tenant: override for tenant, override in read.items() if override is not None}

    async def find(self, tenant: str) -> tuple[Override, bytes]:
        """A tenant's own limits, and the bytes that they are stored as."""
        stored = await command(self._valkey, "HGET", OVERRIDES_KEY, tenant) or b""
        return _read(tenant.encode(), stored) or Override(), stored


async def set_override(
    acknowledger: Acknowledger, settings: LimitsSettings, tenant: str, before: bytes, after: Override
) -> None:
    """Sets a tenant's own limits where they are still `before`.

    Raises REVISION_CONFLICT, QUOTA_EXCEEDED for one tenant too many, and what Acknowledger and redis raise.
    """
    keys = [OVERRIDES_KEY, VERSION_KEY]
    arguments: list[Argument] = [settings.overrides_count_max, tenant, before, encode(after)]
    answer, _ = await acknowledger.run(_OVERRIDE, keys, arguments)
    if answer == b"full":
        bound = f"{settings.overrides_count_max}, which is the bound (gateway.limits.overrides_count_max)"
        message = f"tenants with limits of their own are {bound}; clear some of them"
        raise IsthmusError(errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, message)
    if answer == b"moved":
        message = f"the limits of {tenant} were changed by somebody else at the same moment; look at them and try again"
        raise IsthmusError(errors_pb2.ERROR_REASON_REVISION_CONFLICT, message)


def _number(limit: int | None) -> int:
    return -1 if limit is None else limit


def _read(tenant: bytes, stored: bytes) -> Override | None:
    try:
        return decode(stored)
    except MsgspecError as error:
        # One that a stranger, or a later release, wrote.
        _log.warning("a tenant's limits cannot be read", tenant=tenant[:64].decode(errors="replace"), error=str(error))
        return None
