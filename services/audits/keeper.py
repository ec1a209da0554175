"""Audits in Valkey, by tenant and day, for as long as `audits.kept_ms`.

All keys of a day share the slot of `{<tenant>}`: `verdicts` by the turns' names, `order` with these names, and `rates`,
whose fields are `<counter>:<model>`. So a tenant's days are read by their names, and no other's can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Final

from services.audits.record import COUNTERS, AuditRecord, decode, encode
from services.config import AuditSettings
from services.valkey import Argument, Client, Script, command

_RECORD: Final = Script(Path(__file__).parent / "scripts" / "record.lua")
_DAY_MS: Final = 86_400_000
Counts = Mapping[str, int]


class Kept(IntEnum):
    """What became of an audit that was to be kept."""

    NEW = 1
    ALREADY = 0
    DAY_FULL = -1


class AuditKeeper:
    """Reads and writes of one Valkey. Methods raise redis' errors."""

    def __init__(self, valkey: Client, settings: AuditSettings, clock: Callable[[], float] = time.time) -> None:
        self._valkey = valkey
        self._settings = settings
        self._clock = clock

    def now_ms(self) -> int:
        """The time by which audits are dated."""
        return int(self._clock() * 1000)

    async def keep(self, tenant: str, record: AuditRecord) -> Kept:
        """Keeps an audit, once for a turn however often it is sent."""
        bounds = self._settings.kept_ms, self._settings.day_count_max
        arguments: list[Argument] = [record.name, encode(record), *bounds, record.model]
        for name, count in record.counts().items():
            arguments += [name, count]
        return Kept(await _RECORD(self._valkey, _keys(tenant, record.day, "verdicts", "order", "rates"), arguments))

    async def has(self, tenant: str, record: AuditRecord) -> bool:
        """Whether the record's turn has its audit."""
        return bool(await command(self._valkey, "HEXISTS", *_keys(tenant, record.day, "verdicts"), record.name))

    async def rates(self, tenant: str, first: date, last: date) -> Mapping[tuple[str, str], Counts]:
        """The counts of each day and model from `first` to `last`, of those days that are kept."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        for day in self._days(first, last):
            stored = await command(self._valkey, "HGETALL", *_keys(tenant, day, "rates"))
            for field, count in sorted(stored.items()):
                name, _, model = field.decode().partition(":")
                if name in COUNTERS:
                    found.setdefault((day, model), dict.fromkeys(COUNTERS, 0))[name] = int(count)
        return found

    async def page(self, tenant: str, before: str, count: int) -> Sequence[tuple[str, AuditRecord]]:
        """At most `count` audits with their names, newest first, from behind the one of that name on."""
        page: list[tuple[str, AuditRecord]] = []
        for day in reversed(self._days(date.min, date.max)):
            if before and day > _day(before):
                continue
            start = f"({before}" if before else "+"
            names = await command(
                self._valkey, "ZREVRANGEBYLEX", *_keys(tenant, day, "order"), start, "-", "LIMIT", 0, count - len(page)
            )
            stored = await command(self._valkey, "HMGET", *_keys(tenant, day, "verdicts"), *names) if names else []
            read = zip(names, (decode(each) if each else None for each in stored), strict=True)
            page += [(name.decode(), record) for name, record in read if record is not None]
            if len(page) >= count:
                break
        return page

    def _days(self, first: date, last: date) -> list[str]:
        """Days that may be kept, oldest first: turns of the future's end are of clocks that go a little fast."""
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        oldest = max(first, today - timedelta(days=-(-self._settings.kept_ms // _DAY_MS)))
        newest = min(last, today + timedelta(days=1))
        return [(oldest + timedelta(days=place)).isoformat() for place in range((newest - oldest).days + 1)]


def _day(name: str) -> str:
    return datetime.fromtimestamp(int(name.partition("/")[0]) / 1000, UTC).date().isoformat()


def _keys(tenant: str, day: str, *names: str) -> list[str]:
    return [f"isthmus:audit:{{{tenant}}}:{day}:{name}" for name in names]
