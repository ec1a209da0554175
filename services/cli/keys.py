"""API keys of a mesh as the command line changes them: in its Valkey, and noted in its audit log."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from services.access import Made, Record, Scope
from services.access.keeper import Keeper, listed
from services.access.scopes import DEFAULT
from services.cli.audit import Audit
from services.cli.key_file import write_key
from services.cli.mesh_valkey import opened
from services.config import Settings
from services.supervisor.home import Home
from services.valkey import Client

FIRST_NAME: Final = "isthmus up"


class Keys:
    """The keys in a Valkey. Methods raise IsthmusError."""

    def __init__(self, valkey: Client, keeper: Keeper, audit: Audit) -> None:
        self._valkey = valkey
        self._keeper = keeper
        self._audit = audit

    async def create(
        self, tenant: str, scopes: Sequence[Scope], *, display_name: str = "", lifetime_ms: int = 0
    ) -> Made:
        """A new key."""
        with self._audit.noting("key_created", tenant=tenant, scopes=[each.value for each in scopes]) as found:
            made = await self._keeper.create(tenant, scopes, display_name=display_name, lifetime_ms=lifetime_ms)
            found["key"] = made.key.id
        return made

    async def listed(self, tenant: str | None) -> list[Record]:
        """All keys, or those of a tenant."""
        return [each for each in await listed(self._valkey) if tenant in (None, each.tenant)]

    async def revoke(self, key_id: str) -> Record:
        """Ends a key."""
        with self._audit.noting("key_revoked", key=key_id) as found:
            record = await self._keeper.revoke(key_id)
            found["tenant"] = record.tenant
        return record

    async def rotate(self, key_id: str, grace_ms: int) -> Made:
        """A new key in place of another."""
        with self._audit.noting("key_rotated", key=key_id, grace_ms=grace_ms) as found:
            made = await self._keeper.rotate(key_id, grace_ms)
            found |= {"tenant": made.record.tenant, "successor": made.key.id}
        return made


def home_of(settings: Settings) -> Home:
    """Where the settings' mesh lives."""
    return Home(settings.mesh.home.expanduser().absolute())


@contextlib.asynccontextmanager
async def keys_of(settings: Settings) -> AsyncIterator[Keys]:
    """The keys in the settings' Valkey, with the audit log in their home."""
    async with opened(settings) as (valkey, acknowledger):
        keeper = Keeper(valkey, acknowledger, settings.gateway.access)
        yield Keys(valkey, keeper, Audit(home_of(settings), settings.supervisor))


async def first_key(home: Home, settings: Settings) -> str | None:
    """The key of `mesh.tenant_default`, made and written to the home's `api-key` if there is no such file yet.

    Returns the key if it is new: that is the one time to show it. The file is the user's alone.
    """
    if home.api_key.exists():
        return None
    async with keys_of(settings) as keys:
        made = await keys.create(settings.mesh.tenant_default, DEFAULT, display_name=FIRST_NAME)
    write_key(home, made.key.text)
    return made.key.text
