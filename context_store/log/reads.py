"""What is read of sessions in Valkey: one method a read, with types. Nothing is decided here."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from isthmus.session.v1 import session_pb2

from context_store.log.keys import Keys, tenant_index
from context_store.log.links import Link, ancestor, links_of
from context_store.log.running import Running, Thaw
from context_store.log.stored import (
    Meter,
    Row,
    Snapshot,
    TurnState,
    inherited_row,
    inherited_turn,
    rows_of,
)
from context_store.session.shown import LISTED, is_over, shown
from services.errors import NotFound
from services.valkey import Acknowledger, Argument, Client

_SCAN_COUNT: Final = 1000
# Fields of a hash in one read: Lua's stack takes no more than 8,000.
_FIELDS_COUNT_MAX: Final = 1_000
# Pieces of a turn's output in one read.
_PIECES_COUNT_MAX: Final = 256

# Puts bodies in the place of pointers to them.
Fill: TypeAlias = Callable[[Sequence[Row]], Awaitable[list[Row]]]


class LogReads(Running):
    """Reads of the sessions. Every method raises redis' errors when Valkey is away, NotFound for no session."""

    def __init__(self, client: Client, acknowledger: Acknowledger, thaw: Thaw, fill: Fill | None = None) -> None:
        """Without `fill` no reply of the sessions may have been large enough to lie in an object."""
        super().__init__(client, acknowledger, thaw)
        self._fill = fill

    async def list_sessions(self, tenant: str, collection: str, after: str, count: int) -> list[str]:
        """Ids of a collection after `after` in ascending order."""
        low = f"({after}" if after else "-"
        index = tenant_index(tenant, collection)
        names = await self._command("ZRANGE", index, low, "+", "BYLEX", "LIMIT", 0, count)
        return [name.decode() for name in names]

    async def listed(self, many: Sequence[Keys]) -> list[session_pb2.Session | None]:
        """What lists show of sessions, without bringing any back; None for one that does not exist."""
        pipeline = self._client.pipeline(transaction=False)
        for keys in many:
            pipeline.hmget(keys.meta, LISTED)
            pipeline.hlen(keys.summaries)
        answers = await pipeline.execute()
        rows = zip(answers[::2], answers[1::2], strict=True)
        sessions = [
            shown(dict(zip(LISTED, values, strict=True)), count) if values[-1] else None for values, count in rows
        ]
        now_ms = time.time() * 1000
        return [one if one and not is_over(one, now_ms) else None for one in sessions]

    async def require_alive(self, keys: Keys) -> None:
        """NotFound for a session that has outlived its ttl, whether or not it is erased yet."""
        if (await self._scripts["expiry"](self._client, [keys.meta]))[0] != b"ALIVE":
            raise NotFound(f"sessions/{keys.session}")

    async def snapshot(self, keys: Keys, first: int, count: int) -> Snapshot:
        """The session at this moment, with at most `count` headers of the log from sequence number `first` on."""
        names = [keys.meta, keys.log, keys.turns]
        flat_meta, flat, open_turn = await self._run("read_session", keys, names, [first, count])
        meta = dict(zip(flat_meta[::2], flat_meta[1::2], strict=True))
        if b"version" not in meta:
            raise NotFound(f"sessions/{keys.session}")
        rows = [Row(int(flat[i]), flat[i + 1], int(flat[i + 2])) for i in range(0, len(flat), 3)]
        return Snapshot(meta, rows, open_turn or b"")

    async def presence(self, keys: Keys) -> tuple[bytes, bool, bool]:
        """(incarnation, empty if nothing is there; whether anybody sees the session; whether it is cold)."""
        incarnation, version, cold = await self._command("HMGET", keys.meta, "incarnation", "version", "cold")
        return incarnation or b"", version is not None, cold is not None

    async def object_names(self, keys: Keys) -> list[str]:
        """The names of the objects that the session may own: the one that it is first, then those that are noted."""
        cold = await self._command("HGET", keys.meta, "cold")
        noted = await self._command("SMEMBERS", keys.objects)
        return [name.decode() for name in (cold, *sorted(noted)) if name]

    async def turn_count(self, keys: Keys) -> int:
        """The number of the session's last turn."""
        return int((await self._fields(keys, "turn_count"))[0])

    async def own(self, keys: Keys) -> bytes:
        """The session's own fields, as they are stored."""
        return (await self._fields(keys, "own"))[0]

    async def version(self, keys: Keys) -> bytes:
        """Which state the session is in: every write that a copy of it has to know of makes another one."""
        return (await self._fields(keys, "version"))[0]

    async def _fields(self, keys: Keys, *names: str) -> list[bytes]:
        # A session that is being made or erased has no version.
        version, ttl_ms, *stored = await self._command("HMGET", keys.meta, "version", "ttl_ms", *names)
        if version is None:
            raise NotFound(f"sessions/{keys.session}")
        if ttl_ms is not None:
            await self.require_alive(keys)
        return [value or b"" for value in stored]

    async def turn_state(
        self, keys: Keys, turn: int, incarnation: bytes = b"", after_piece: int | None = None
    ) -> TurnState:
        """The turn, of that incarnation of the session if one is given. That it is closed is acknowledged.

        With `after_piece`, up to 256 pieces of an open turn's output behind that one.
        """
        args: list[Argument] = [turn, incarnation, "" if after_piece is None else after_piece, _PIECES_COUNT_MAX]
        answer, _ = await self._run_acknowledged("turn_state", keys, [keys.meta, keys.turns, keys.output], args)
        if answer == [b"MISSING"]:
            raise NotFound(f"sessions/{keys.session}")
        stored = answer[0] or (await self.turns(keys, [turn]))[0] or b""
        return TurnState(bytes(stored), int(answer[1]), int(answer[2]), bytes(answer[3]), answer[4])

    async def has_request(self, keys: Keys, request_id: str) -> bool:
        """Whether a request of this id was carried out, or is."""
        _, values = await self._hash(keys, keys.requests, [request_id])
        return values[0] is not None

    async def turns(self, keys: Keys, numbers: Sequence[int]) -> list[bytes | None]:
        """Turn protos, as they are stored."""
        links, values = await self._hash(keys, keys.turns, numbers)
        found = dict(zip(numbers, values, strict=True))
        for link in links:
            shared = [one for one in numbers if not found[one] and link.first_turn <= one <= link.last_turn]
            origin = ancestor(keys, link)
            _, stored = await self._hash(origin, origin.turns, shared, incarnation=link.incarnation)
            named = (inherited_turn(keys.session, turn) if turn else None for turn in stored)
            found.update(zip(shared, named, strict=True))
        return [found[one] for one in numbers]

    async def summary_bodies(self, keys: Keys, names: Sequence[str], meter: Meter | None = None) -> list[bytes | None]:
        """The stored summaries of these names."""
        links, values = await self._hash(keys, keys.summary_bodies, names, meter)
        found = dict(zip(names, values, strict=True))
        for link in links:
            missing = [name for name in names if not found[name]]
            origin = ancestor(keys, link)
            _, stored = await self._hash(origin, origin.summary_bodies, missing, meter, incarnation=link.incarnation)
            found.update(zip(missing, stored, strict=True))
        return [found[name] for name in names]

    async def _hash(
        self,
        keys: Keys,
        name: str,
        fields: Sequence[Argument],
        meter: Meter | None = None,
        *,
        incarnation: bytes = b"",
    ) -> tuple[tuple[Link, ...], list[bytes | None]]:
        """(The session's links, its own values); none of another incarnation, if one is asked for."""
        values: list[bytes | None] = []
        links: tuple[Link, ...] = ()
        for first in range(0, len(fields), _FIELDS_COUNT_MAX):
            some = fields[first : first + _FIELDS_COUNT_MAX]
            stored, found = await self._run("read_hash", keys, [keys.meta, name], [incarnation, *some], meter)
            values += found
            links = links_of(stored)
        return links, values

    async def rows(
        self, keys: Keys, first: int, last: int, count: int, with_bodies: bool, meter: Meter | None = None
    ) -> list[Row]:
        """At most `count` entries of the log in order, of a fork's whole past too; erased ones are not there."""
        rows = await self.stored_rows(keys, first, last, count, with_bodies, meter)
        return await self._fill(rows) if with_bodies and self._fill else rows

    async def stored_rows(
        self, keys: Keys, first: int, last: int, count: int, with_bodies: bool, meter: Meter | None = None
    ) -> list[Row]:
        """The same as they are stored: the body of a large reply's entry says where it lies."""
        flat = await self._page(keys, first, last, count, with_bodies, meter)
        if flat[:1] != [b"SHARED"]:
            return rows_of(flat)
        links, shared = links_of(flat[1]), int(flat[2])
        erased = await self._erased(keys, links) if with_bodies else set()
        found: list[Row] = []
        for link in links:
            low, high = max(first, link.first), min(last, link.last)
            if low <= high and len(found) < count:
                left, origin = count - len(found), ancestor(keys, link)
                page = rows_of(await self._page(origin, low, high, left, with_bodies, meter, link.incarnation))
                found += [inherited_row(keys.session, row) for row in page if row.sequence not in erased]
        if last > shared and len(found) < count:
            found += rows_of(await self._page(keys, shared + 1, last, count - len(found), with_bodies, meter))
        return found

    async def _page(
        self,
        keys: Keys,
        first: int,
        last: int,
        count: int,
        with_bodies: bool,
        meter: Meter | None,
        incarnation: bytes = b"",
    ) -> list[Any]:
        args: list[Argument] = [first, last, count, "1" if with_bodies else "0", incarnation]
        return await self._run("read_log", keys, [keys.meta, keys.log], args, meter)

    async def _erased(self, keys: Keys, links: Sequence[Link]) -> set[int]:
        """What a fork, or one between it and its ancestors, has erased of the past that it shares."""
        erased = set()
        for origin, incarnation in [(keys, b""), *((ancestor(keys, link), link.incarnation) for link in links)]:
            async for member in self.void(origin, incarnation):
                if member.startswith(b"f"):
                    erased.add(int(member[1:].split(b":")[0]))
        return erased

    async def void(self, keys: Keys, incarnation: bytes = b"") -> AsyncIterator[bytes]:
        """Members of the session's own void set, of that incarnation if one is given; some may come twice."""
        async for page in self._scan("SSCAN", keys, keys.void, incarnation):
            for member in page:
                yield member

    async def counts(self, keys: Keys, incarnation: bytes = b"") -> AsyncIterator[tuple[bytes, bytes]]:
        """Sequence and value; some may come twice."""
        async for page in self._scan("HSCAN", keys, keys.counts, incarnation):
            for pair in pairs_of(page):
                yield pair

    async def summaries(self, keys: Keys, incarnation: bytes = b"") -> AsyncIterator[bytes]:
        """Headers; some may come twice."""
        async for page in self._scan("HSCAN", keys, keys.summaries, incarnation):
            for _, header in pairs_of(page):
                yield header

    async def forks(self, keys: Keys) -> dict[bytes, bytes]:
        """`<session>:<incarnation in hex>` of each fork to when it was noted, in ms of the noting shard's clock."""
        found: dict[bytes, bytes] = {}
        cursor: Argument = 0
        while True:
            # Not a script: the forks of a cold session, or of one that is being erased, are asked for too.
            cursor, page = await self._command("HSCAN", keys.forks, cursor, "COUNT", _SCAN_COUNT)
            found.update(page if isinstance(page, dict) else dict(pairs_of(page)))
            if not int(cursor):
                return found

    async def _scan(self, command: str, keys: Keys, name: str, incarnation: bytes) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            args: list[Argument] = [command, cursor, _SCAN_COUNT, incarnation]
            cursor, page = await self._run("scan", keys, [keys.meta, name], args)
            yield page
            if cursor == b"0":
                return


def pairs_of(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
