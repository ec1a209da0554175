"""Quotas: what a session and a tenant may hold. The bounds and their check are pure.

What a tenant holds is summed in Valkey by whoever writes, within `usage_interval_ms`; between two sums a shard goes by
the last one, so a tenant may pass its bound by what it writes in that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from redis.exceptions import RedisError

from context_store.hot.hot_session import HotSession
from context_store.log.keys import Keys
from context_store.log.log import Log
from services.collections import BOOKMARK, FILE, LIBRARY, collection_of
from services.config import QuotaLimits, QuotaSettings
from services.errors import IsthmusError, QuotaViolation
from services.long_task import LongTask

_log: Final = structlog.get_logger("context_store")
# Sessions that are summed in one trip.
_GROUP_COUNT: Final = 32
# What bounds the sessions of each collection.
_COUNTED: Final = {
    "": "tenant_sessions_max",
    LIBRARY: "tenant_libraries_max",
    FILE: "tenant_files_max",
    BOOKMARK: "tenant_bookmarks_max",
}


@dataclass(frozen=True, slots=True)
class Sums:
    """What a session or a tenant holds: UTF-8 bytes, and tokens, estimated where they are not counted."""

    bytes: int = 0
    tokens: int = 0


def held_by(hot: HotSession) -> Sums:
    """What a session holds itself: a fork without the past that it shares."""
    own_bytes = max(0, hot.history.text_bytes - hot.shared_bytes)
    return Sums(own_bytes, max(0, hot.tokens() - hot.shared_tokens))


def check_sums(limits: QuotaLimits, keys: Keys, session: Sums, tenant: Sums, added_bytes: int) -> None:
    """QUOTA_EXCEEDED where a bound is reached, or would be passed by so many bytes more of text."""
    subject = f"sessions/{keys.session}"
    _check("session_bytes_max", subject, limits.session_bytes_max, session.bytes + added_bytes, session.bytes)
    _check("session_tokens_max", subject, limits.session_tokens_max, session.tokens + 1, session.tokens)
    subject = f"tenants/{keys.tenant}"
    _check("tenant_bytes_max", subject, limits.tenant_bytes_max, tenant.bytes + added_bytes, tenant.bytes)
    _check("tenant_tokens_max", subject, limits.tenant_tokens_max, tenant.tokens + 1, tenant.tokens)


def count_bound(limits: QuotaLimits, keys: Keys) -> tuple[str, int]:
    """Which quota bounds how many sessions the tenant has in this one's collection, and at how many."""
    quota = _COUNTED[collection_of(keys.session)]
    return quota, getattr(limits, quota)


def _check(quota: str, subject: str, bound: int, wanted: int, present: int) -> None:
    if bound and wanted > bound:
        raise exceeded(quota, subject, bound, present)


def exceeded(quota: str, subject: str, bound: int, present: int) -> IsthmusError:
    """The error that names the quota, its bound and what is there now."""
    message = f"quota.{quota} of {subject} is {bound}, {present} are there; delete something, or have the quota raised"
    return IsthmusError(
        errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        message,
        metadata={"quota": quota, "bound": str(bound), "present": str(present)},
        quotas=[QuotaViolation(subject, message)],
    )


class Usage:
    """What the sessions that this shard writes hold, brought to Valkey by a task of its own."""

    def __init__(self, log: Log, settings: QuotaSettings) -> None:
        self._log = log
        self._settings = settings
        self._pending: dict[Keys, Sums] = {}
        # What tenants held at the last sum; those that were asked about since are summed again.
        self._tenants: dict[str, Sums] = {}
        self._asked: set[str] = set()
        self._task = LongTask()

    def limits(self, tenant: str) -> QuotaLimits:
        """The bounds of a tenant."""
        return self._settings.tenants.get(tenant, self._settings)

    def check(self, keys: Keys, hot: HotSession, added_bytes: int) -> None:
        """QUOTA_EXCEEDED where the session, or its tenant, may not hold so much more text."""
        check_sums(self.limits(keys.tenant), keys, held_by(hot), self._tenant(keys.tenant), added_bytes)

    def check_sums(self, keys: Keys, session: Sums) -> None:
        """The same for a session that is being imported, and holds this by now."""
        limits = self.limits(keys.tenant)
        held = self._tenant(keys.tenant)
        tenant = Sums(held.bytes + session.bytes, held.tokens + session.tokens)
        check_sums(limits, keys, session, tenant, 0)

    def _tenant(self, tenant: str) -> Sums:
        if not self._is_bounded(tenant):
            return Sums()
        self._asked.add(tenant)
        return self._tenants.get(tenant, Sums())

    def _is_bounded(self, tenant: str) -> bool:
        limits = self.limits(tenant)
        return bool(limits.tenant_bytes_max or limits.tenant_tokens_max)

    def note(self, keys: Keys, hot: HotSession) -> None:
        """Takes in what a session holds now, for the next sum; of tenants alone that have a bound."""
        if self._is_bounded(keys.tenant):
            self.note_sums(keys, held_by(hot))

    def note_sums(self, keys: Keys, sums: Sums) -> None:
        """The same for a session that was imported."""
        # One that does not fit is summed after its next write.
        has_room = keys in self._pending or len(self._pending) < self._settings.usage_pending_count_max
        if has_room and self._is_bounded(keys.tenant):
            self._pending[keys] = sums

    def forget(self, keys: Keys) -> None:
        """A session that is erased is not summed again."""
        self._pending.pop(keys, None)

    def start(self) -> None:
        self._task.start(self._run(), "usage")

    async def stop(self) -> None:
        """Ends the task, with the last sums told."""
        if await self._task.stop():
            await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.usage_interval_ms / 1000)
            await self._flush()

    async def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        asked, self._asked = self._asked, set()
        try:
            for tenant in asked | {keys.tenant for keys in pending}:
                held = [one for one in pending.items() if one[0].tenant == tenant]
                total = await self._sum(tenant, held)
                # The newest go last, and the oldest first where there are too many.
                self._tenants.pop(tenant, None)
                self._tenants[tenant] = total
            while len(self._tenants) > self._settings.usage_pending_count_max:
                del self._tenants[next(iter(self._tenants))]
        except (RedisError, OSError, IsthmusError) as error:
            # Newer sums of the same sessions go before these.
            self._pending = {**pending, **self._pending}
            self._asked |= asked
            _log.warning("usage not summed yet", error=str(error))

    async def _sum(self, tenant: str, held: Sequence[tuple[Keys, Sums]]) -> Sums:
        for first in range(0, len(held), _GROUP_COUNT):
            some = held[first : first + _GROUP_COUNT]
            # What was erased since must not come back into the sums.
            places = await asyncio.gather(*(self._log.presence(keys) for keys, _ in some))
            seen = [one for one, (_, is_seen, _) in zip(some, places, strict=True) if is_seen]
            await self._log.set_usage(tenant, {keys.session: (sums.bytes, sums.tokens) for keys, sums in seen})
        # Others may have written too, or erased.
        return Sums(*await self._log.set_usage(tenant, {}))
