"""How API keys come, change and go: each step as the records it leaves. Pure; clock and random are the caller's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from services.access.key import ApiKey, mint
from services.access.record import KeyState, Record
from services.access.scopes import Scope
from services.errors import InvalidField

DISPLAY_NAME_CHARS_MAX: Final = 128
# A hundred years: what is longer has a digit too many.
LIFETIME_MS_MAX: Final = 100 * 366 * 86_400_000

_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Change:
    """A record as it was read, None where there is none, and as it is to be, None where it goes."""

    before: Record | None
    after: Record | None


@dataclass(frozen=True, slots=True)
class Made:
    """A new key, its record, and what has to change together for it to count."""

    key: ApiKey
    record: Record
    changes: tuple[Change, ...]


def created(
    tenant: str,
    scopes: Sequence[Scope],
    *,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
    display_name: str = "",
    lifetime_ms: int = 0,
) -> Made:
    """A key of a tenant; a `lifetime_ms` of 0 has no end. InvalidField names what cannot be."""
    if not _TENANT.fullmatch(tenant):
        raise InvalidField("tenant", f"is {tenant[:64]!r}, expected 1 to 63 of a-z, 0-9 and -, no - first")
    if not scopes:
        raise InvalidField("scopes", f"are none, expected some of {', '.join(each.value for each in Scope)}")
    if len(display_name) > DISPLAY_NAME_CHARS_MAX or not display_name.isprintable():
        raise InvalidField("name", f"expected at most {DISPLAY_NAME_CHARS_MAX} characters that can be printed")
    _check_span("expires-in", lifetime_ms)
    key = mint(random_bytes)
    record = Record(
        id=key.id,
        tenant=tenant,
        digest=key.digest,
        scopes=tuple(each for each in Scope if each in scopes),
        display_name=display_name,
        create_ms=now_ms,
        expire_ms=now_ms + lifetime_ms if lifetime_ms else 0,
    )
    return Made(key, record, (Change(None, record),))


def revoked(record: Record, now_ms: int) -> Record:
    """The record of a key that opens nothing from now on; one that was revoked before stays as it was."""
    return record if record.revoke_ms else replace(record, revoke_ms=now_ms)


def rotated(record: Record, *, now_ms: int, grace_ms: int, random_bytes: Callable[[int], bytes]) -> Made:
    """A new key in place of an active one: of the same tenant, scopes and name, and for as long a time.

    The old one lives on for `grace_ms`, or until its own end if that is earlier. InvalidField if it is not active.
    """
    _check_span("grace", grace_ms)
    state = record.state(now_ms)
    if state is not KeyState.ACTIVE:
        raise InvalidField("key", f"{record.id} is {state.value}, expected an active one; create a new key instead")
    made = created(
        record.tenant,
        record.scopes,
        now_ms=now_ms,
        random_bytes=random_bytes,
        display_name=record.display_name,
        lifetime_ms=record.expire_ms - record.create_ms if record.expire_ms else 0,
    )
    ends_ms = now_ms + grace_ms
    old = replace(record, expire_ms=min(ends_ms, record.expire_ms) if record.expire_ms else ends_ms)
    return Made(made.key, made.record, (*made.changes, Change(record, old)))


def dead(records: Iterable[Record], *, now_ms: int, kept_ms: int) -> list[Record]:
    """Those that have opened nothing for `kept_ms`: nobody misses them in a list."""
    return [each for each in records if (ended := _ended_ms(each)) and ended + kept_ms <= now_ms]


def _ended_ms(record: Record) -> int:
    ends = [each for each in (record.revoke_ms, record.expire_ms) if each]
    return min(ends, default=0)


def _check_span(field: str, span_ms: int) -> None:
    if not 0 <= span_ms <= LIFETIME_MS_MAX:
        raise InvalidField(field, f"is {span_ms} ms, expected 0 to {LIFETIME_MS_MAX}")
