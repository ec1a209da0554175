"""The gate of both edges: from what a call shows to its tenant, or an error that says why not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from isthmus.errors.v1 import errors_pb2
from redis.exceptions import RedisError

from gateway.access.cache import KeyCache
from gateway.access.refusals import Refusal, RefusalLog
from services.access import ApiKey, MalformedKey, Record, Scope, Verdict, judge, parse
from services.access.keeper import find
from services.access.scopes import allows
from services.config import AccessSettings
from services.errors import IsthmusError
from services.valkey import Client
from services.valkey.failover import expected

_EXPECTED: Final = "expected `authorization: Bearer isk-…` with a key of `isthmus tenants create-key`"
_SCHEME: Final = "bearer"


@dataclass(frozen=True, slots=True)
class Call:
    """A call before it is let in; `authorization` has every header, or metadata entry, of that name."""

    what: str
    needs: Scope | None
    authorization: Sequence[str]
    peer: str


class Gate(Protocol):
    """Who is let in, as whom."""

    async def tenant_of(self, call: Call) -> str:
        """The caller's tenant. Raises UNAUTHENTICATED, or PERMISSION_DENIED naming the scope."""

    def close(self) -> None:
        """Tells what is still untold."""


class OpenGate:
    """Lets everybody in as one tenant, whatever they show."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    async def tenant_of(self, call: Call) -> str:
        """The tenant of everybody."""
        return self._tenant

    def close(self) -> None:
        """Nothing is untold."""


class KeyGate:
    """Lets those in who show an API key that is valid now and has the scope that the call needs.

    Goes by what it has read of a key for `cache_ms_max`; while Valkey is away, other keys wait for it and then get
    UPSTREAM_UNAVAILABLE. `clock` is in seconds since 1970, by which keys expire; `ticks`, by which what was read grows
    old, in seconds that never go back.
    """

    def __init__(
        self,
        valkey: Client,
        settings: AccessSettings,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._valkey = valkey
        self._clock = clock
        self._ticks = ticks
        self._cache = KeyCache(settings.cache_ms_max, settings.cache_count_max)
        self._reads = asyncio.Semaphore(settings.reads_concurrent_max)
        self._refusals = RefusalLog(settings.refusals_logged_count_max)

    async def tenant_of(self, call: Call) -> str:
        """The key's tenant."""
        key = self._shown(call)
        record = await self._record(key.id)
        verdict = judge(record, key, int(self._clock() * 1000))
        if record is None or verdict is not Verdict.VALID:
            tenant = record.tenant if record is not None and verdict is not Verdict.UNKNOWN else ""
            self._refusals.refused(Refusal(call.what, call.peer, verdict.value, key.id, tenant))
            raise _unauthenticated(_why(verdict, record))
        if not allows(record.scopes, call.needs):
            assert call.needs is not None
            self._refusals.refused(Refusal(call.what, call.peer, "scope", key.id, record.tenant))
            raise _denied(call.what, call.needs, record)
        return record.tenant

    def close(self) -> None:
        """Tells what is still untold."""
        self._refusals.close()

    def _shown(self, call: Call) -> ApiKey:
        try:
            return bearer(call.authorization)
        except MalformedKey as error:
            reason = "malformed" if call.authorization else "missing"
            self._refusals.refused(Refusal(call.what, call.peer, reason))
            raise _unauthenticated(str(error)) from None

    async def _record(self, key_id: str) -> Record | None:
        known = self._cache.get(key_id, self._now_ms())
        if known is not None:
            return known.record
        async with self._reads:
            asked_ms = self._now_ms()
            try:
                record = await find(self._valkey, key_id)
            except RedisError as error:
                away = expected(error)
                if away is None:
                    raise
                raise away from error
        self._cache.put(key_id, record, asked_ms)
        return record

    def _now_ms(self) -> int:
        return int(self._ticks() * 1000)


def shown(authorization: Sequence[str], what: str = "API key") -> str:
    """The call's one credential. MalformedKey says what is there instead."""
    if not authorization:
        raise MalformedKey(f"no {what} came with the call")
    if len(authorization) > 1:
        raise MalformedKey(f"{len(authorization)} credentials came with the call")
    scheme, _, credential = authorization[0].partition(" ")
    if scheme.lower() != _SCHEME:
        raise MalformedKey("the credential is not of the scheme Bearer")
    return credential.strip()


def bearer(authorization: Sequence[str]) -> ApiKey:
    """The key in the call's one credential. MalformedKey says, without the key, what is there instead."""
    credential = shown(authorization)
    try:
        return parse(credential)
    except MalformedKey as error:
        raise MalformedKey(f"the API key cannot be one: {error}") from None


def _why(verdict: Verdict, record: Record | None) -> str:
    """Who has the secret is told what became of the key; who does not, learns nothing of it."""
    if record is not None and verdict is Verdict.EXPIRED:
        return f"the API key isk-{record.id} expired at {_time(record.expire_ms)}"
    if record is not None and verdict is Verdict.REVOKED:
        return f"the API key isk-{record.id} was revoked at {_time(record.revoke_ms)}"
    return "the API key is not one of this mesh's"


def _unauthenticated(why: str) -> IsthmusError:
    return IsthmusError(errors_pb2.ERROR_REASON_UNAUTHENTICATED, f"{why}; {_EXPECTED}")


def _denied(what: str, needs: Scope, record: Record) -> IsthmusError:
    has = ", ".join(each.value for each in record.scopes)
    message = f"{what} needs the scope {needs.value}; the API key isk-{record.id} has {has}"
    return IsthmusError(errors_pb2.ERROR_REASON_PERMISSION_DENIED, message, metadata={"scope": needs.value})


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
