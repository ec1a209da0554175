"""Cached answers in Valkey, the same for every gateway and kept over restarts.

All keys of a scope share the slot of `{<tenant>/<scope>}`: `entries` and `answers` by id, `used` by time,
`changes` by version (so that a gateway reads on from where it was), `state`, and `wrong`. Those of a tenant share that
of `{<tenant>}`: its scopes by time, the entries that a session's replies are in, and counts. Every key has a TTL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.caches.entry import Entry, decode, encode
from gateway.caches.index import Index
from services.config import CacheSettings
from services.valkey import Argument, Client, Script, command

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_KEEP, _READ, _TAKE, _DROP, _NOTE = (
    Script(_SCRIPTS / f"{name}.lua") for name in ("keep", "read", "take", "drop", "note")
)
_PAGE_COUNT: Final = 500
# Of one report: what is beyond is counted at the next one, when older scopes have gone.
_SCOPES_COUNTED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry is. `scope` is a scope's digest."""

    tenant: str
    scope: str
    id: str

    @property
    def name(self) -> str:
        """As receipts have it."""
        return f"{self.scope}/{self.id}"


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry with its answer."""

    entry: Entry
    answer: str


class Keeper:
    """Reads and writes of one Valkey. Methods raise redis' errors."""

    def __init__(self, valkey: Client, settings: CacheSettings, clock: Callable[[], float] = time.time) -> None:
        self._valkey = valkey
        self._settings = settings
        self._clock = clock

    def now_ms(self) -> int:
        """The time by which entries are dated."""
        return int(self._clock() * 1000)

    async def take(self, place: Place) -> Kept | None:
        """The entry with its answer, which counts as used; None where it is not there any more."""
        now = self.now_ms()
        found = await _TAKE(self._valkey, _keys(place, "entries", "answers", "used"), [place.id, now])
        entry = decode(found[0]) if found else None
        if entry is None or entry.is_over(now, self._settings.ttl_ms):
            return None
        return Kept(entry, found[1].decode())

    async def keep(self, place: Place, entry: Entry, answer: str, session: str) -> bool:
        """Keeps an answer that a turn of the session was given; False where it was told wrong before."""
        now, settings = self.now_ms(), self._settings
        # Noted first: what is kept is found by an erasure of its session, whenever the gateway dies.
        noting = [_of_tenant(place.tenant, "scopes"), _of_tenant(place.tenant, f"of:{session}")]
        arguments: list[Argument] = [place.scope, place.name, now, settings.ttl_ms, settings.scopes_count_max]
        for scope in await _NOTE(self._valkey, noting, arguments):
            await self._drop_scope(Place(place.tenant, scope.decode(), ""))
        kept = await _KEEP(
            self._valkey,
            _all(place),
            [place.id, encode(entry), answer, now, settings.ttl_ms, settings.semantic_entries_count_max],
        )
        return bool(kept)

    async def drop(self, place: Place, wrong: str = "") -> bool:
        """Drops the entry everywhere; `wrong` is what must not be given again. Whether it was there."""
        settings = self._settings
        arguments: list[Argument] = [place.id, self.now_ms(), settings.ttl_ms, wrong, settings.wrong_count_max]
        return bool(await _DROP(self._valkey, _all(place), arguments))

    async def forget(self, tenant: str, session: str) -> int:
        """Drops what was kept of a session's replies: how many entries."""
        key = _of_tenant(tenant, f"of:{session}")
        names = [name.decode() for name in await command(self._valkey, "SMEMBERS", key)]
        dropped = 0
        for name in names:
            scope, _, entry_id = name.partition("/")
            dropped += await self.drop(Place(tenant, scope, entry_id))
        if names:
            await command(self._valkey, "SREM", key, *names)
        return dropped

    async def bring_up(self, index: Index, tenant: str, scope: str) -> None:
        """Brings an index to where the scope is now."""
        place = Place(tenant, scope, "")
        keys = _keys(place, "entries", "changes", "state", "wrong")
        while True:
            born, version, anew, wrong, found = await _READ(
                self._valkey, keys, [index.born, index.version, _PAGE_COUNT]
            )
            if anew:
                index.clear()
            if found or anew:
                index.wrong = frozenset(name.decode() for name in wrong)
            for entry_id, stored in zip(found[::2], found[1::2], strict=True):
                entry = decode(stored) if stored else None
                if entry is None:
                    index.remove(entry_id.decode())
                else:
                    index.put(entry)
            index.born, index.version = int(born), int(version)
            if len(found) < 2 * _PAGE_COUNT:
                return

    async def add_counts(self, tenant: str, counts: Mapping[str, int]) -> None:
        """Adds to the tenant's counts."""
        key = _of_tenant(tenant, "counts")
        for name, count in counts.items():
            await command(self._valkey, "HINCRBY", key, name, count)
        await command(self._valkey, "PEXPIRE", key, self._settings.counts_kept_ms)

    async def counts(self, tenant: str) -> dict[str, int]:
        """The tenant's counts, of all gateways."""
        stored = await command(self._valkey, "HGETALL", _of_tenant(tenant, "counts"))
        return {name.decode(): int(count) for name, count in stored.items()}

    async def sizes(self, tenant: str) -> tuple[int, int]:
        """Entries and scopes that the tenant has now."""
        scopes = await command(self._valkey, "ZRANGE", _of_tenant(tenant, "scopes"), 0, _SCOPES_COUNTED_MAX - 1)
        sizes = [
            await command(self._valkey, "HLEN", *_keys(Place(tenant, scope.decode(), ""), "entries"))
            for scope in scopes
        ]
        return sum(sizes), sum(size > 0 for size in sizes)

    async def _drop_scope(self, place: Place) -> None:
        await command(self._valkey, "UNLINK", *_all(place))


def _keys(place: Place, *names: str) -> list[str]:
    return [f"isthmus:cache:{{{place.tenant}/{place.scope}}}:{name}" for name in names]


def _all(place: Place) -> list[str]:
    return _keys(place, "entries", "answers", "used", "changes", "state", "wrong")


def _of_tenant(tenant: str, name: str) -> str:
    return f"isthmus:cache:{{{tenant}}}:{name}"
