"""The data types of a Valkey node and the commands that the store uses, as a function of the arguments alone.

Replies have the types of RESP2: bytes, int, None and lists of them. Writes are deterministic, so that a replica that
carries out the same ones in the same order has the same data.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar, Union

from redis.exceptions import ResponseError

Reply: TypeAlias = Union[bytes, int, "list[Reply]", None]
Parts: TypeAlias = Sequence[bytes]

# Small, so that scans of small sessions take several trips, between which the session may change.
SCAN_COUNT: Final = 3


class Status(bytes):
    """A simple string, which Lua is given as a table."""


class Hash(dict[bytes, bytes]):
    """Field to value."""


class Members(dict[bytes, float]):
    """A set; the numbers say nothing."""


class Scores(dict[bytes, float]):
    """A sorted set: member to score."""


class Stream(dict[int, list[bytes]]):
    """Sequence number to flat fields. Every id is `<sequence>-0`."""

    last = 0


Value: TypeAlias = Hash | Members | Scores | Stream
Kind = TypeVar("Kind", Hash, Members, Scores, Stream)


class Database:
    """One keyspace. `execute` raises ResponseError as Valkey answers with an error."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.values: dict[bytes, Value] = {}
        self._now_us = now_us
        # Commands that changed something, as Valkey counts them: those alone are replicated, and waited for.
        self.changes = 0

    def copy_of(self, other: Database) -> None:
        """Takes over all data of another one, as a full synchronisation does."""
        self.values = copy.deepcopy(other.values)

    def execute(self, parts: Parts) -> Reply:
        name = parts[0].decode().lower()
        command: Callable[..., Reply] | None = getattr(self, f"_{name}", None)
        if command is None:
            raise NotImplementedError(f"the simulated Valkey has no {name.upper()}")
        return command(*parts[1:])

    def _get(self, key: bytes, kind: type[Kind]) -> Kind:
        """The value to read; an empty one that is not kept where there is none."""
        value = self.values.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _make(self, key: bytes, kind: type[Kind]) -> Kind:
        """The value to write to."""
        value = self._get(key, kind)
        self.values[key] = value
        return value

    def _trim(self, key: bytes) -> None:
        """Valkey keeps no empty hash or set; it does keep an empty stream."""
        value = self.values.get(key)
        if value is not None and not value and not isinstance(value, Stream):
            del self.values[key]

    def _time(self) -> Reply:
        seconds, microseconds = divmod(self._now_us(), 1_000_000)
        return [b"%d" % seconds, b"%d" % microseconds]

    def _type(self, key: bytes) -> Reply:
        names = {Hash: b"hash", Members: b"set", Scores: b"zset", Stream: b"stream"}
        value = self.values.get(key)
        return Status(b"none" if value is None else names[type(value)])

    def _memory(self, what: bytes, key: bytes) -> Reply:
        """No measure, for nothing rests on it."""
        return 1 if key in self.values else None

    def _exists(self, *keys: bytes) -> Reply:
        return sum(key in self.values for key in keys)

    def _changed(self, count: int) -> int:
        self.changes += bool(count)
        return count

    def _del(self, *keys: bytes) -> Reply:
        return self._changed(sum(self.values.pop(key, None) is not None for key in keys))

    _unlink = _del

    def _hset(self, key: bytes, *pairs: bytes) -> Reply:
        if not pairs or len(pairs) % 2:
            raise ResponseError("ERR wrong number of arguments for 'hset' command")
        value = self._make(key, Hash)
        before = len(value)
        value.update(zip(pairs[::2], pairs[1::2], strict=True))
        self._changed(True)
        return len(value) - before

    def _hincrby(self, key: bytes, field: bytes, by: bytes) -> Reply:
        value = self._get(key, Hash)
        if not value.get(field, b"0").lstrip(b"-").isdigit():
            raise ResponseError("ERR hash value is not an integer")
        value = self._make(key, Hash)
        value[field] = b"%d" % (int(value.get(field, b"0")) + int(by))
        self._changed(True)
        return int(value[field])

    def _hget(self, key: bytes, field: bytes) -> Reply:
        return self._get(key, Hash).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> Reply:
        value = self._get(key, Hash)
        return [value.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> Reply:
        return [part for pair in self._get(key, Hash).items() for part in pair]

    def _hdel(self, key: bytes, *fields: bytes) -> Reply:
        value = self._get(key, Hash)
        gone = sum(value.pop(field, None) is not None for field in fields)
        self._trim(key)
        return self._changed(gone)

    def _hlen(self, key: bytes) -> Reply:
        return len(self._get(key, Hash))

    def _hexists(self, key: bytes, field: bytes) -> Reply:
        return int(field in self._get(key, Hash))

    def _hscan(self, key: bytes, cursor: bytes, *_: bytes) -> Reply:
        value = self._get(key, Hash)
        following, page = _scan(value, int(cursor))
        return [following, [part for field in page for part in (field, value[field])]]

    def _sscan(self, key: bytes, cursor: bytes, *_: bytes) -> Reply:
        following, page = _scan(self._get(key, Members), int(cursor))
        return [following, list(page)]

    def _sadd(self, key: bytes, *members: bytes) -> Reply:
        value = self._make(key, Members)
        before = len(value)
        value.update(dict.fromkeys(members, 0.0))
        return self._changed(len(value) - before)

    def _srem(self, key: bytes, *members: bytes) -> Reply:
        return self._remove(key, self._get(key, Members), members)

    def _zrem(self, key: bytes, *members: bytes) -> Reply:
        return self._remove(key, self._get(key, Scores), members)

    def _remove(self, key: bytes, value: Members | Scores, members: Parts) -> int:
        gone = sum(value.pop(member, None) is not None for member in members)
        self._trim(key)
        return self._changed(gone)

    def _smembers(self, key: bytes) -> Reply:
        return list(self._get(key, Members))

    def _sismember(self, key: bytes, member: bytes) -> Reply:
        return int(member in self._get(key, Members))

    def _scard(self, key: bytes) -> Reply:
        return len(self._get(key, Members))

    def _zcard(self, key: bytes) -> Reply:
        return len(self._get(key, Scores))

    def _zadd(self, key: bytes, *pairs: bytes) -> Reply:
        value = self._make(key, Scores)
        before = len(value)
        scores = {member: float(score) for score, member in zip(pairs[::2], pairs[1::2], strict=True)}
        self._changed(any(value.get(member) != score for member, score in scores.items()))
        value.update(scores)
        return len(value) - before

    def _zscore(self, key: bytes, member: bytes) -> Reply:
        score = self._get(key, Scores).get(member)
        return None if score is None else b"%.17g" % score

    def _zrange(self, key: bytes, low: bytes, high: bytes, by: bytes = b"", *limit: bytes) -> Reply:
        """By lexical order alone, as the index of sessions is read."""
        if by != b"BYLEX" or high != b"+":
            raise NotImplementedError("ZRANGE but by BYLEX up to +")
        members = [member for member in sorted(self._get(key, Scores)) if low == b"-" or member > low[1:]]
        skipped, count = (int(limit[1]), int(limit[2])) if limit else (0, len(members))
        return list[Reply](members[skipped : skipped + count])

    def _zrangebyscore(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> Reply:
        """With scores and a limit, as the janitor reads its indexes."""
        if options[:2] != (b"WITHSCORES", b"LIMIT"):
            raise NotImplementedError("ZRANGEBYSCORE but WITHSCORES LIMIT")
        value = self._get(key, Scores)
        found = sorted((score, member) for member, score in value.items() if float(low) <= score <= float(high))
        skipped, count = int(options[2]), int(options[3])
        return [part for score, member in found[skipped : skipped + count] for part in (member, b"%.17g" % score)]

    def _xadd(self, key: bytes, entry_id: bytes, *fields: bytes) -> Reply:
        sequence = _sequence(entry_id)
        last = self._get(key, Stream).last
        if sequence <= last:
            raise ResponseError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        value = self._make(key, Stream)
        value[sequence], value.last = list(fields), sequence
        self._changed(True)
        return entry_id

    def _xrange(self, key: bytes, low: bytes, high: bytes, *count: bytes) -> Reply:
        first = 0 if low == b"-" else _sequence(low.lstrip(b"(")) + low.startswith(b"(")
        last = None if high == b"+" else _sequence(high)
        value = self._get(key, Stream)
        found = [one for one in sorted(value) if one >= first and (last is None or one <= last)]
        return [[b"%d-0" % one, list(value[one])] for one in found[: int(count[1]) if count else None]]

    def _xrevrange(self, key: bytes, high: bytes, low: bytes, *count: bytes) -> Reply:
        """From the end alone, as the newest entry is looked up."""
        if (high, low) != (b"+", b"-"):
            raise NotImplementedError("XREVRANGE but from + to -")
        value = self._get(key, Stream)
        found = sorted(value, reverse=True)[: int(count[1]) if count else None]
        return [[b"%d-0" % one, list(value[one])] for one in found]

    def _xdel(self, key: bytes, *entry_ids: bytes) -> Reply:
        value = self._get(key, Stream)
        return self._changed(sum(value.pop(_sequence(one), None) is not None for one in entry_ids))

    def _xlen(self, key: bytes) -> Reply:
        return len(self._get(key, Stream))


def _sequence(entry_id: bytes) -> int:
    number, _, minor = entry_id.partition(b"-")
    if minor not in (b"", b"0"):
        raise NotImplementedError(f"a stream's id {entry_id!r} that is not <sequence>-0")
    return int(number)


def _scan(members: Hash | Members, cursor: int) -> tuple[bytes, list[bytes]]:
    """A page in the order of a hash: what is there from the first to the last page is in one of them."""
    ordered = sorted((zlib.crc32(member) + 1, member) for member in members)
    rest = [(place, member) for place, member in ordered if place > cursor]
    page = rest[:SCAN_COUNT]
    return (b"%d" % page[-1][0] if len(rest) > SCAN_COUNT else b"0"), [member for _, member in page]
