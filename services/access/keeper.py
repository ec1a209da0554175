"""API keys in Valkey: read by every gateway, changed by whoever runs the mesh.

`isthmus:{keys}:records` is a hash of key id -> JSON of its record. All keys share a slot, so that one script changes
several together; a key is read once in a while by each gateway, never with every call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from msgspec import MsgspecError

from services.access.changes import Change, Made, created, dead, revoked, rotated
from services.access.record import Record, decode, encode
from services.access.scopes import Scope
from services.config import AccessSettings
from services.errors import IsthmusError, NotFound
from services.valkey import Acknowledger, Client, Script, command

RECORDS_KEY: Final = "isthmus:{keys}:records"
_CHANGE: Final = Script(Path(__file__).parent / "scripts" / "change.lua")
# Two people who change one key at the same moment; the second one looks again.
_ATTEMPTS_COUNT_MAX: Final = 3
_log: Final = structlog.get_logger("access")


async def find(valkey: Client, key_id: str) -> Record | None:
    """The record of a key; None where there is none, or one that cannot be read. Raises redis' errors."""
    stored = await command(valkey, "HGET", RECORDS_KEY, key_id)
    return None if stored is None else _read(key_id, stored)


async def listed(valkey: Client) -> list[Record]:
    """All records, by tenant and age. Raises redis' errors."""
    read = [_read(key_id, stored) for key_id, stored in (await _all(valkey)).items()]
    return sorted((each for each in read if each), key=lambda each: (each.tenant, each.create_ms, each.id))


class Keeper:
    """Creates, revokes and rotates keys. An answer means that the replicas hold it, as `valkey` has it for writes.

    Raises InvalidField, NOT_FOUND, QUOTA_EXCEEDED for one key too many, REVISION_CONFLICT, and what Acknowledger and
    redis raise.
    """

    def __init__(
        self,
        valkey: Client,
        acknowledger: Acknowledger,
        settings: AccessSettings,
        *,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._valkey = valkey
        self._acknowledger = acknowledger
        self._settings = settings
        self._clock = clock
        self._random_bytes = random_bytes

    async def create(
        self, tenant: str, scopes: Sequence[Scope], *, display_name: str = "", lifetime_ms: int = 0
    ) -> Made:
        """A new key, whose secret nobody can be told again. Drops records that ended `ended_kept_ms` ago."""
        made = created(
            tenant,
            scopes,
            now_ms=self._now_ms(),
            random_bytes=self._random_bytes,
            display_name=display_name,
            lifetime_ms=lifetime_ms,
        )
        await self._drop_dead()
        if not await self._apply(made.changes, {}):
            raise _moved(made.key.id)
        return made

    async def revoke(self, key_id: str) -> Record:
        """The key opens nothing any more, at the latest `cache_ms_max` from now. A second time changes nothing."""
        for _ in range(_ATTEMPTS_COUNT_MAX):
            record, stored = await self._find(key_id)
            after = revoked(record, self._now_ms())
            if await self._apply([Change(record, after)], {key_id: stored}):
                return after
        raise _moved(key_id)

    async def rotate(self, key_id: str, grace_ms: int) -> Made:
        """A new key in place of this one, which lives on for `grace_ms`."""
        for _ in range(_ATTEMPTS_COUNT_MAX):
            record, stored = await self._find(key_id)
            made = rotated(record, now_ms=self._now_ms(), grace_ms=grace_ms, random_bytes=self._random_bytes)
            if await self._apply(made.changes, {key_id: stored}):
                return made
        raise _moved(key_id)

    async def _find(self, key_id: str) -> tuple[Record, bytes]:
        stored = await command(self._valkey, "HGET", RECORDS_KEY, key_id)
        record = None if stored is None else _read(key_id, stored)
        if record is None:
            raise NotFound(f"API key {key_id[:64]}")
        return record, stored

    async def _drop_dead(self) -> None:
        stored = await _all(self._valkey)
        read = [each for key_id, raw in stored.items() if (each := _read(key_id, raw))]
        gone = dead(read, now_ms=self._now_ms(), kept_ms=self._settings.ended_kept_ms)
        if gone:
            await self._apply([Change(each, None) for each in gone], stored)

    async def _apply(self, changes: Sequence[Change], stored: Mapping[str, bytes]) -> bool:
        """Whether the records were as they were read, `stored` by id; QUOTA_EXCEEDED where there would be too many.

        As they were read, byte by byte: one that a later release wrote may say more than is understood here.
        """
        arguments: list[bytes | str | int] = [self._settings.keys_count_max]
        for each in changes:
            record = each.after or each.before
            assert record is not None
            after = b"" if each.after is None else encode(each.after)
            arguments += [record.id, stored.get(record.id, b""), after]
        answer, _ = await self._acknowledger.run(_CHANGE, [RECORDS_KEY], arguments)
        if answer == b"full":
            message = (
                f"there are {self._settings.keys_count_max} keys, which is the bound (gateway.access.keys_count_max); "
                "those that have ended go gateway.access.ended_kept_ms later, when a key is created"
            )
            raise IsthmusError(errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, message)
        return bool(answer == b"done")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


async def _all(valkey: Client) -> dict[str, bytes]:
    return {name.decode(): stored for name, stored in (await command(valkey, "HGETALL", RECORDS_KEY)).items()}


def _read(key_id: str, stored: bytes) -> Record | None:
    try:
        return decode(stored)
    except MsgspecError as error:
        # One that a stranger, or a later release, wrote opens nothing and hinders nobody.
        _log.warning("a key's record cannot be read", key=key_id[:64], error=str(error))
        return None


def _moved(key_id: str) -> IsthmusError:
    message = f"API key {key_id} was changed by somebody else at the same moment; look at it and try again"
    return IsthmusError(errors_pb2.ERROR_REASON_REVISION_CONFLICT, message)
