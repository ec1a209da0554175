"""How a session comes to be: empty, as a fork, or of an import. It is in every index before it is there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2

from context_store.log.keys import Keys
from context_store.log.stored import Reply
from context_store.session.deletion import Deletions
from context_store.session.quotas import count_bound, exceeded
from context_store.store import Store
from services.errors import IsthmusError
from services.valkey import Argument


class Creator:
    """Makes sessions. ALREADY_EXISTS for an id that is taken, QUOTA_EXCEEDED where the tenant may have no more."""

    def __init__(self, store: Store, deletions: Deletions) -> None:
        self._store = store
        self._deletions = deletions

    async def create(
        self,
        keys: Keys,
        own: session_pb2.Session,
        mark: bytes,
        fields: Mapping[str, Argument] = MappingProxyType({}),
    ) -> None:
        """Makes the session of this mark once; one of the same id that is being erased is gone first."""
        self._store.tiers.memory.admit("a new session")
        is_on_disk = own.durability == session_pb2.DURABILITY_DISK
        for _ in range(self._store.settings.revision_retries_count_max):
            await self.enter(keys, own)
            reply = await self._store.log.create_session(keys, own, mark, fields, disk=is_on_disk)
            if not await self.is_in_the_way(keys, reply):
                await self.settle(keys, own)
                return
        raise taken(keys)

    async def enter(self, keys: Keys, own: session_pb2.Session) -> None:
        """Puts the session into the indexes: a crash in between leaves names that nothing is behind."""
        quota, bound = count_bound(self._store.usage.limits(keys.tenant), keys)
        reply = await self._store.log.enter_tenant(keys, bound)
        if reply.outcome == "FULL":
            raise exceeded(quota, f"tenants/{keys.tenant}", bound, int(reply.values[0]))
        await self._store.tiers.enter(keys, own)

    async def settle(self, keys: Keys, own: session_pb2.Session) -> None:
        """Enters a session that is there by now once more: a deletion of its id may have taken its entries out."""
        await self._deletions.relist(keys)
        await self._store.tiers.note_ttl(keys, own)

    async def is_in_the_way(self, keys: Keys, reply: Reply) -> bool:
        """Whether another session was there, which is gone by now; ALREADY_EXISTS where it stays."""
        if reply.outcome == "EXISTS":
            expiry = await self._store.tiers.log.expiry(keys)
            if expiry.outcome != "EXPIRED":
                raise taken(keys)
            await self._deletions.expire(keys, int(expiry.values[0]))
            return True
        if reply.outcome == "HIDDEN" and await self._deletions.resume(keys):
            raise taken(keys)
        return reply.outcome == "HIDDEN"


def taken(keys: Keys) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_ALREADY_EXISTS, f"sessions/{keys.session} exists; expected an id that is free"
    )
