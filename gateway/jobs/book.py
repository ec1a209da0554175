"""The book of jobs in Valkey: who waits, who runs, the dead letters, and how others ended. One hash slot a tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final

import structlog
from isthmus.errors.v1 import errors_pb2
from msgspec import MsgspecError
from redis.exceptions import RedisError

from gateway.jobs.record import JobRecord, decode, encode
from services.config import JobSettings
from services.errors import IsthmusError
from services.valkey import Acknowledger, Client, Script, command
from services.valkey.failover import expected

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_ENTER: Final = Script(_SCRIPTS / "enter.lua")
_CHANGE: Final = Script(_SCRIPTS / "change.lua")
_LEAVE: Final = Script(_SCRIPTS / "leave.lua")
_FORGET: Final = Script(_SCRIPTS / "forget.lua")
_ERASE: Final = Script(_SCRIPTS / "erase.lua")
_ALL: Final = ("records", "requests", "live", "ended", "dead", "sums", "names")
_log: Final = structlog.get_logger("jobs")


class Shelf(Enum):
    """Where a tenant's jobs are looked up, newest first."""

    LIVE = "live"
    ENDED = "ended"
    DEAD = "dead"


class JobBook:
    """Records of jobs with their requests. What is answered is held by replicas as the settings ask for it.

    Raises what Acknowledger raises, and UPSTREAM_UNAVAILABLE while Valkey is away.
    """

    def __init__(self, valkey: Client, acknowledger: Acknowledger, settings: JobSettings) -> None:
        self._valkey = valkey
        self._acknowledger = acknowledger
        self._settings = settings

    async def enter(self, record: JobRecord, request: bytes) -> bool:
        """Whether the job is new to the book. OVERLOADED where the tenant has as many, or as large ones, as may be."""
        settings = self._settings
        bounds = (settings.queued_count_max, settings.queued_bytes_max)
        args = (record.name, record.key, encode(record), request, record.create_ms, *bounds)
        answer = await self._run(_ENTER, record.tenant, _ALL, args)
        if answer in (b"count", b"bytes"):
            raise _full(record.tenant, answer.decode(), settings)
        return bool(answer == b"entered")

    async def change(self, record: JobRecord) -> bool:
        """Notes how far the job is; False where it is not live any more."""
        args = (record.name, record.key, encode(record))
        with _away():
            keys = _keys(record.tenant, "records", "live")
            return bool(await self._acknowledger.shared(_CHANGE, keys, args))

    async def leave(self, record: JobRecord, shelf: Shelf | None) -> bool:
        """Puts an ended job on a shelf, None for none of them; False where somebody had done so before."""
        settings = self._settings
        count_max = settings.dead_count_max if shelf is Shelf.DEAD else settings.ended_count_max
        where = shelf.value if shelf else "gone"
        args = (record.name, record.key, encode(record), where, record.end_ms, count_max, settings.dead_bytes_max)
        was_live, dropped = await self._run(_LEAVE, record.tenant, _ALL, args)
        if dropped:
            _log.warning("the oldest dead letters gave way", tenant=record.tenant, count=dropped)
        return bool(was_live)

    async def forget(self, tenant: str, name: str, now_ms: int) -> bool:
        """Takes a dead letter, or a job that has ended, out of the book; False where there is none."""
        kinds = ("records", "requests", "ended", "dead", "sums", "names")
        return bool(await self._run(_FORGET, tenant, kinds, (name, now_ms)))

    async def erase(self, tenant: str, session: str, now_ms: int) -> int:
        """Takes all jobs of a session out of the book, with their requests; how many there were."""
        return int(await self._run(_ERASE, tenant, _ALL, (session, now_ms)))

    async def find(self, tenant: str, name: str) -> JobRecord | None:
        """The job of a turn, by `job_name`; None where the book does not know one, or no more."""
        with _away():
            stored = await command(self._valkey, "HGET", *_keys(tenant, "records"), name)
        return None if stored is None else _read(stored)

    async def request(self, tenant: str, name: str) -> bytes | None:
        """The RunTurnRequest of a live job or a dead letter."""
        with _away():
            stored: bytes | None = await command(self._valkey, "HGET", *_keys(tenant, "requests"), name)
        return stored

    async def page(self, tenant: str, shelf: Shelf, offset: int, count: int) -> list[JobRecord]:
        """A shelf's jobs from an offset on, newest first. Jobs that move meanwhile may come twice or not at all."""
        with _away():
            last = offset + count - 1
            names = await command(self._valkey, "ZREVRANGE", *_keys(tenant, shelf.value), offset, last)
            if not names:
                return []
            stored = await command(self._valkey, "HMGET", *_keys(tenant, "records"), *names)
        found = [_read(each) for each in stored if each is not None]
        return [each for each in found if each is not None]

    async def _run(self, script: Script, tenant: str, kinds: Sequence[str], args: Sequence[Any]) -> Any:
        with _away():
            answer, _ = await self._acknowledger.run(script, _keys(tenant, *kinds), args)
        return answer


def _keys(tenant: str, *kinds: str) -> list[str]:
    return [f"isthmus:{{jobs:{tenant}}}:{kind}" for kind in kinds]


def _read(stored: bytes) -> JobRecord | None:
    try:
        return decode(stored)
    except MsgspecError as error:
        # One that a later release wrote hinders nobody.
        _log.warning("a job's record cannot be read", error=str(error))
        return None


def _full(tenant: str, bound: str, settings: JobSettings) -> IsthmusError:
    name, value = f"queued_{bound}_max", getattr(settings, f"queued_{bound}_max")
    message = f"the jobs of tenant {tenant} are at their bound (gateway.jobs.{name}, {value}); try again later"
    return IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message)


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        away = expected(error)
        if away is None:
            raise
        raise away from error
