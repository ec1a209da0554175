"""Reads a session's log straight from Valkey, by the stored format alone: what the store says of itself is no proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import redis
import zstandard
from isthmus.session.v1 import fragment_pb2


@dataclass(frozen=True, slots=True)
class Stored:
    """One live fragment."""

    sequence: int
    kind: int
    turn: int
    text: str


def read_log(url: str, tenant: str, session: str) -> list[Stored]:
    """Every fragment in order that is not void. AssertionError where the sequence numbers have a gap."""
    prefix = f"isthmus:{{{tenant}/{session}}}"
    with redis.Redis.from_url(url) as valkey:
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", valkey.xrange(f"{prefix}:log"))
        void = {member.decode() for member in cast("Any", valkey.smembers(f"{prefix}:void"))}
    numbers = [int(entry.partition(b"-")[0]) for entry, _ in entries]
    assert numbers == list(range(1, len(numbers) + 1)), f"the log has gaps: {numbers}"
    fragments = [_stored(number, fields) for number, (_, fields) in zip(numbers, entries, strict=True)]
    return [each for each in fragments if f"t{each.turn}" not in void]


def _stored(sequence: int, fields: dict[bytes, bytes]) -> Stored:
    header = fragment_pb2.Fragment.FromString(fields[b"f"])
    text = zstandard.decompress(fields[b"b"]).decode()
    return Stored(sequence, header.kind, header.turn, text)
