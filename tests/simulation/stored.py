"""A session as its bytes lie in Valkey, read by the stored format alone: what the store says of itself is no proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import msgspec
import zstandard
from isthmus.session.v1 import fragment_pb2, turn_pb2

from services.digest import EMPTY, chain
from tests.simulation.database import Database, Hash, Members, Stream, Value


@dataclass(frozen=True, slots=True)
class Piece:
    """One fragment of the log."""

    sequence: int
    kind: int
    turn: int
    document: str
    digest: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Stored:
    """All of one session. `void` has the turns that came to nothing, `erased` the fragments."""

    meta: dict[bytes, bytes]
    pieces: dict[int, Piece]
    turns: dict[int, turn_pb2.Turn]
    requests: dict[str, str]
    void: frozenset[int]
    erased: frozenset[int]

    @property
    def revision(self) -> int:
        return int(self.meta[b"revision"])

    @property
    def shared(self) -> int:
        """The last sequence number that is read from an ancestor's log."""
        return int(self.meta.get(b"shared", 0))

    @property
    def is_fork(self) -> bool:
        return b"links" in self.meta

    @property
    def links(self) -> list[list[Any]]:
        """Ancestor, its incarnation, first and last sequence, first and last turn, for each part of the past."""
        stored = self.meta.get(b"links")
        return list(msgspec.msgpack.decode(stored)) if stored else []

    def live(self) -> list[Piece]:
        """What windows and lists may show, in order."""
        return [piece for _, piece in sorted(self.pieces.items()) if piece.turn not in self.void]

    def window(self, last: int) -> tuple[int, int, bytes]:
        """Epoch, items and chain digest of the window that ends with sequence number `last`."""
        stored = self.meta.get(b"window")
        base: list[Any] = msgspec.msgpack.decode(stored) if stored else [1, 1, 0, 0, [], []]
        epoch, tail_from, pinned, summaries = base[0], base[1], base[4], base[5]
        digests = [self.pieces[one].digest for one in pinned]
        digests += [summary[-1] for summary in summaries]
        digests += [piece.digest for piece in self.live() if tail_from <= piece.sequence <= last]
        end = EMPTY
        for digest in digests:
            end = chain(end, digest)
        return epoch, len(digests), end


def is_there(database: Database, tenant: str, session: str) -> bool:
    """Whether anybody sees the session, warm or cold."""
    meta = database.values.get(f"isthmus:{{{tenant}/{session}}}:meta".encode(), Hash())
    return b"version" in meta


def cold(database: Database, tenant: str, session: str) -> str:
    """The name of the session's object, empty where it is in Valkey."""
    meta = cast(Hash, database.values.get(f"isthmus:{{{tenant}/{session}}}:meta".encode(), Hash()))
    return meta.get(b"cold", b"").decode()


def read(database: Database, tenant: str, session: str) -> Stored | None:
    """The session; None if it is not in Valkey."""
    prefix = f"isthmus:{{{tenant}/{session}}}:"

    def value(concept: str) -> Value:
        return database.values.get(f"{prefix}{concept}".encode(), Hash())

    meta = cast(Hash, value("meta"))
    if b"version" not in meta or b"cold" in meta:
        return None
    members = [member.decode() for member in cast(Members, value("void"))]
    turns, requests = cast(Hash, value("turns")), cast(Hash, value("requests"))
    return Stored(
        meta=dict(meta),
        pieces={number: _piece(number, fields) for number, fields in cast(Stream, value("log")).items()},
        turns={int(number): turn_pb2.Turn.FromString(turn) for number, turn in turns.items()},
        requests={key.decode(): entry[16:].decode() for key, entry in requests.items()},
        void=frozenset(int(one[1:]) for one in members if one[0] == "t"),
        erased=frozenset(int(one[1:].partition(":")[0]) for one in members if one[0] == "f"),
    )


def past(database: Database, tenant: str, fork: Stored) -> dict[int, Piece]:
    """What a fork shows of its ancestors' logs."""
    found: dict[int, Piece] = {}
    erased = set(fork.erased)
    for name, incarnation, first, last, _, _ in fork.links:
        ancestor = read(database, tenant, name)
        if ancestor and ancestor.meta[b"incarnation"] == incarnation:
            # Behind what is shared of it the same numbers are other fragments.
            erased |= {sequence for sequence in ancestor.erased if sequence <= last}
            shared = (piece for piece in ancestor.live() if first <= piece.sequence <= last)
            found.update((piece.sequence, piece) for piece in shared)
    return {sequence: piece for sequence, piece in found.items() if sequence not in erased}


def _piece(sequence: int, fields: list[bytes]) -> Piece:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    header = fragment_pb2.Fragment.FromString(named[b"f"])
    text = zstandard.decompress(named[b"b"]).decode()
    return Piece(sequence, header.kind, header.turn, header.document, header.digest, text)
