"""The forms in which things lie in Valkey, and what scripts answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from isthmus.session.v1 import fragment_pb2, turn_pb2

from context_store.log.links import Link, links_of
from context_store.window.epoch import Base
from context_store.window.summaries import SummaryRef
from services.valkey import Ack, Argument

_encoder: Final = msgspec.msgpack.Encoder()
_base_decoder: Final = msgspec.msgpack.Decoder(Base)
_summary_decoder: Final = msgspec.msgpack.Decoder(SummaryRef)
_TOKENIZER_BYTES: Final = 16
MARK_BYTES: Final = 8
# A change is known by its call's mark and six digits of the microsecond at which its script ran: a call that a failover
# has undone and that is sent again is another change.
_CHANGE_BYTES: Final = MARK_BYTES + 6


@dataclass(slots=True)
class Meter:
    """Where a call's time and bytes went, for the receipt."""

    plan_ms: float = 0.0
    valkey_ms: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a script answered: its outcome and what goes with it, first of all the session's version."""

    outcome: str
    values: list[Any] = field(default_factory=list)
    ack: Ack = field(default_factory=Ack)

    @property
    def version(self) -> bytes:
        return bytes(self.values[0])


@dataclass(frozen=True, slots=True)
class Entry:
    """A fragment as the log has it: header and body are the stored bytes."""

    header: bytes
    body: bytes
    size: int


@dataclass(frozen=True, slots=True)
class TurnState:
    """A turn as the log has it, empty if there is none, with what its open life adds: a closed one has attempt 0."""

    stored: bytes
    attempt: int
    left_ms: int
    # Of the session that it is a turn of.
    incarnation: bytes
    # OutputPiece protos of an open turn, as far as they were asked for.
    pieces: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with its place; `body` is empty where it was not asked for."""

    sequence: int
    header: bytes
    size: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session as of one moment: all of meta, headers of the log from a place on, the open turn or nothing."""

    meta: dict[bytes, bytes]
    rows: list[Row]
    open_turn: bytes

    @property
    def links(self) -> tuple[Link, ...]:
        return links_of(self.meta.get(b"links"))

    def token(self, field_name: bytes) -> bytes:
        return self.meta.get(field_name, b"")

    def number(self, field_name: bytes) -> int:
        return int(self.meta.get(field_name, 0))


@dataclass(frozen=True, slots=True)
class NewTurn:
    """What OpenTurn would write."""

    version: bytes
    request_id: str
    digest: bytes
    driver: str
    lease_ms: int
    after_turn: int | None
    turn: turn_pb2.Turn
    # Set where a new epoch begins.
    base: Base | None
    entries: Iterable[Entry]
    # Without the plan, only to find the turn that the request_id may have already.
    is_probe: bool = False
    # The turn that is taken over though its lease lives; nothing is opened then.
    resumes: int | None = None


class ImportPage:
    """Records of an import in their stored form, for one script call."""

    def __init__(self) -> None:
        self.bytes = 0
        self.count = 0
        self._fragments: list[Argument] = []
        self._turns: list[Argument] = []
        self._documents: list[Argument] = []

    def add_fragment(self, sequence: int, header: bytes, body: bytes, size: int) -> None:
        self._fragments += [sequence, header, body, size]
        self._grow(len(header) + size)

    def add_turn(self, number: int, turn: bytes, letter: bytes, request_id: str) -> None:
        self._turns += [number, turn, letter, request_id]
        self._grow(len(turn))

    def add_document(self, document_id: str, document: bytes, place: str) -> None:
        self._documents += [document_id, document, place]
        self._grow(len(document))

    def _grow(self, size: int) -> None:
        self.bytes += size
        self.count += 1

    def arguments(self) -> list[Argument]:
        counts: list[Argument] = [len(self._fragments) // 4, len(self._turns) // 4]
        return [*counts, *self._fragments, *self._turns, *self._documents]


def descends(version: bytes, ancestor: bytes) -> bool:
    """Whether a state came from another by changes that it still knows of.

    A version is a session's last changes, newest first; the oldest may be the mark alone of what made the session. A
    copy whose newest change is not among them is too old to be brought up, or has seen one that a failover undid.
    """
    newest = ancestor[:_CHANGE_BYTES]
    return any(version[at : at + _CHANGE_BYTES] == newest for at in range(0, len(version), _CHANGE_BYTES))


def tokenizer_of(digest: bytes) -> bytes:
    """A tokenizer's digest in its stored length; empty stays empty."""
    return digest.ljust(_TOKENIZER_BYTES, b"\0") if digest else b""


def base_of(stored: bytes | None) -> Base:
    """The base that was stored, or that of a session's first epoch."""
    return _base_decoder.decode(stored) if stored else Base()


def base_arguments(base: Base | None) -> list[Argument]:
    """Base and epoch, empty and 0 where no new epoch begins."""
    return [_encoder.encode(base), base.epoch] if base else [b"", 0]


def summary_of(stored: bytes) -> SummaryRef:
    return _summary_decoder.decode(stored)


def summary_arguments(summary: SummaryRef) -> list[Argument]:
    return [summary.name, _encoder.encode(summary)]


def count_of(stored: bytes) -> tuple[bytes, int]:
    """(tokenizer digest, exact tokens) of a stored count."""
    return stored[:_TOKENIZER_BYTES], int(stored[_TOKENIZER_BYTES:])


def count_arguments(tokenizer: bytes, counts: Iterable[tuple[int, int]]) -> list[Argument]:
    return [part for sequence, tokens in counts for part in (sequence, tokenizer + b"%d" % tokens)]


def entry_arguments(entries: Iterable[Entry]) -> list[Argument]:
    return [part for entry in entries for part in (entry.header, entry.body, entry.size)]


def rows_of(flat: Sequence[Any]) -> list[Row]:
    """The entries of a script's flat answer: sequence, header, size, body for each."""
    return [Row(int(flat[i]), flat[i + 1], int(flat[i + 2]), flat[i + 3]) for i in range(0, len(flat), 4)]


def inherited_row(session: str, row: Row) -> Row:
    """An ancestor's entry as its fork shows it: a piece of a document is one of the fork's document."""
    if b"/documents/" not in row.header:
        return row
    header = fragment_pb2.Fragment.FromString(row.header)
    header.document = f"sessions/{session}/documents/{header.document.rpartition('/')[2]}"
    return Row(row.sequence, header.SerializeToString(), row.size, row.body)


def inherited_turn(session: str, stored: bytes) -> bytes:
    """An ancestor's turn as its fork shows it."""
    turn = turn_pb2.Turn.FromString(stored)
    turn.name = f"sessions/{session}/turns/{turn.number}"
    return turn.SerializeToString()
