"""API keys for tests, made in the test's Valkey as the command line makes them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from services.access import Scope
from services.access.keeper import Keeper
from services.access.scopes import DEFAULT
from services.config import Settings
from services.valkey import Acknowledger, connect

HOUR_MS = 3_600_000


@asynccontextmanager
async def keeping(settings: Settings, clock: Callable[[], float] = time.time) -> AsyncIterator[Keeper]:
    """Who makes and ends keys."""
    valkey = connect(settings.valkey)
    acknowledger = Acknowledger(valkey, settings.valkey)
    yield Keeper(valkey, acknowledger, settings.gateway.access, clock=clock)
    await acknowledger.aclose()
    await valkey.aclose()


async def new_key(settings: Settings, tenant: str = "local", scopes: Sequence[Scope] = DEFAULT) -> str:
    """A key as its holder has it."""
    async with keeping(settings) as keeper:
        return (await keeper.create(tenant, scopes)).key.text


async def expired_key(settings: Settings, tenant: str = "local") -> str:
    """A key of two hours ago that was good for one."""
    async with keeping(settings, lambda: time.time() - 2 * HOUR_MS / 1000) as keeper:
        return (await keeper.create(tenant, DEFAULT, lifetime_ms=HOUR_MS)).key.text


async def revoked_key(settings: Settings, tenant: str = "local") -> str:
    """A key that nobody may use any more."""
    async with keeping(settings) as keeper:
        made = await keeper.create(tenant, DEFAULT)
        await keeper.revoke(made.key.id)
        return made.key.text
