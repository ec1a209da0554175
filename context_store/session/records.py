"""The records of an export, checked one by one as an import takes them in. Pure.

A record that does not fit is named by its place in the stream, from 0 on, and the field: `records[7].fragment.digest`.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from isthmus.session.v1 import document_pb2, fragment_pb2, message_pb2, record_pb2, session_pb2, turn_pb2

from context_store.session.attributes import check_attributes
from context_store.turn import turns
from services.collections import ID
from services.digest import DIGEST_BYTES, fragment_digest
from services.errors import InvalidField
from services.passages import TOKENS_MAX, TOKENS_MIN

FORMAT: Final = 1
# A fragment's text, whatever the mesh that it comes from is set to.
TEXT_BYTES_MAX: Final = 65_536
_REQUEST_BYTES_MAX: Final = 128
_DOCUMENT: Final = re.compile(rf"sessions/{ID}/documents/([a-z0-9][a-z0-9-]{{0,62}})")
_DONE: Final = turn_pb2.Turn.STATE_DONE


class Sum:
    """What an export's end says of it."""

    def __init__(self) -> None:
        self.fragment_count = 0
        self.turn_count = 0
        self.document_count = 0
        self._digest = blake2b(digest_size=DIGEST_BYTES)

    def add(self, record: record_pb2.SessionRecord) -> None:
        """Takes in a record."""
        match record.WhichOneof("record"):
            case "fragment":
                self.fragment_count += 1
                self._digest.update(record.fragment.digest)
            case "turn":
                self.turn_count += 1
            case "document":
                self.document_count += 1

    def end(self) -> record_pb2.SessionRecord:
        """The last record."""
        end = record_pb2.SessionRecord.End(
            fragment_count=self.fragment_count,
            turn_count=self.turn_count,
            document_count=self.document_count,
            digest=self._digest.digest(),
        )
        return record_pb2.SessionRecord(end=end)


class RecordCheck:
    """Checks a stream's records in their order. `sequence_max` bounds the numbers of fragments and turns."""

    def __init__(self, sequence_max: int) -> None:
        self._sequence_max = sequence_max
        self._sum = Sum()
        self._index = -1
        self._turn = 0
        self.header: session_pb2.Session | None = None
        self.sequence = 0
        self.text_bytes = 0
        # The latest turn that is done, and its last message.
        self.done_turn = 0
        self.done_input = 0
        self.is_ended = False

    @property
    def revision(self) -> int:
        """The log's end; numbers behind the last fragment belong to turns that came to nothing."""
        return max(self.sequence, self.header.revision if self.header else 0)

    @property
    def turn_count(self) -> int:
        return max(self._turn, self.header.turn_count if self.header else 0)

    def take(self, record: record_pb2.SessionRecord) -> None:
        """Checks the next record. INVALID_FIELD names it and its field."""
        self._index += 1
        kind = record.WhichOneof("record")
        if self.is_ended:
            raise self._wrong("", "comes after the end; expected nothing more")
        if (self.header is None) != (kind == "header"):
            raise self._wrong("", f"is {kind or 'empty'}; expected one header, as the first record")
        match kind:
            case "header":
                self._header(record.header)
            case "fragment":
                self._fragment(record.fragment)
            case "turn":
                self._turn_record(record.turn)
            case "document":
                self._document(record.document)
            case "end":
                self._end(record)
            case _:
                raise self._wrong("", "is empty; expected a fragment, a turn, a document or the end")
        self._sum.add(record)

    def incomplete(self) -> InvalidField:
        """Why a stream that is over is no session."""
        return InvalidField("records", f"the stream closed after {self._index + 1} records; expected an end")

    def _wrong(self, field: str, problem: str) -> InvalidField:
        return InvalidField(f"records[{self._index}]{'.' * bool(field)}{field}", problem)

    def _header(self, header: record_pb2.SessionRecord.Header) -> None:
        if header.format != FORMAT:
            raise self._wrong("header.format", f"is {header.format}; expected {FORMAT}")
        for field in ("revision", "turn_count"):
            self._within(f"header.session.{field}", getattr(header.session, field), 0)
        self.header = header.session

    def _within(self, field: str, number: int, low: int) -> None:
        if not low <= number <= self._sequence_max:
            raise self._wrong(field, f"is {number}; expected {low} to {self._sequence_max}")

    def _fragment(self, fragment: fragment_pb2.Fragment) -> None:
        self._within("fragment.sequence", fragment.sequence, self.sequence + 1)
        self._within("fragment.turn", fragment.turn, 0)
        size = len(fragment.text.encode())
        if not 1 <= size <= TEXT_BYTES_MAX:
            raise self._wrong("fragment.text", f"has {size} bytes; expected 1 to {TEXT_BYTES_MAX}")
        if fragment.kind not in fragment_pb2.FragmentKind.values() or not fragment.kind:
            raise self._wrong("fragment.kind", f"is {fragment.kind}; expected a FragmentKind")
        if fragment.role not in message_pb2.Role.values():
            raise self._wrong("fragment.role", f"is {fragment.role}; expected a Role")
        if fragment.part < 0:
            raise self._wrong("fragment.part", f"is {fragment.part}; expected 0 or more")
        if fragment.document and not _DOCUMENT.fullmatch(fragment.document):
            raise self._wrong("fragment.document", f"is {fragment.document!r}; expected sessions/…/documents/…")
        digest = fragment_digest(fragment.kind, fragment.role, fragment.author, fragment.part, fragment.text)
        if fragment.digest != digest:
            raise self._wrong("fragment.digest", f"is not that of its content; expected {digest.hex()} in hex")
        self.sequence = fragment.sequence
        self.text_bytes += size

    def _turn_record(self, turn: turn_pb2.Turn) -> None:
        self._within("turn.number", turn.number, self._turn + 1)
        if turn.state not in turns.LETTERS or turn.state == turns.OPEN:
            raise self._wrong("turn.state", f"is {turn.state}; expected that of a closed turn")
        if len(turn.request_id.encode()) > _REQUEST_BYTES_MAX:
            raise self._wrong("turn.request_id", f"is too long; expected at most {_REQUEST_BYTES_MAX} bytes")
        for side in ("input", "output"):
            first, last = (getattr(turn, f"{end}_{side}_sequence") for end in ("first", "last"))
            self._within(f"turn.first_{side}_sequence", first, 0)
            self._within(f"turn.last_{side}_sequence", last, max(0, first))
        self._turn = turn.number
        if turn.state == _DONE:
            self.done_turn, self.done_input = turn.number, turn.last_input_sequence

    def _document(self, document: document_pb2.Document) -> None:
        if not _DOCUMENT.fullmatch(document.name):
            raise self._wrong("document.name", f"is {document.name!r}; expected sessions/…/documents/…")
        self._within("document.first_sequence", document.first_sequence, 0)
        self._within("document.last_sequence", document.last_sequence, max(0, document.first_sequence))
        if document.committed_bytes < 0:
            raise self._wrong("document.committed_bytes", f"is {document.committed_bytes}; expected 0 or more")
        # An export of before there were passages says nothing of them.
        tokens_max, overlap = document.passage_tokens_max, document.passage_overlap_tokens
        if tokens_max and not TOKENS_MIN <= tokens_max <= TOKENS_MAX:
            expected = f"expected {TOKENS_MIN} to {TOKENS_MAX}"
            raise self._wrong("document.passage_tokens_max", f"is {tokens_max}; {expected}")
        if not 0 <= 2 * overlap <= tokens_max:
            raise self._wrong("document.passage_overlap_tokens", f"is {overlap}; expected at most half of {tokens_max}")
        check_attributes(document.attributes, f"records[{self._index}].document.attributes")

    def _end(self, record: record_pb2.SessionRecord) -> None:
        expected = self._sum.end().end
        for field in ("fragment_count", "turn_count", "document_count"):
            if getattr(record.end, field) != getattr(expected, field):
                raise self._wrong(
                    f"end.{field}", f"is {getattr(record.end, field)}; expected {getattr(expected, field)}, as came"
                )
        if record.end.digest != expected.digest:
            raise self._wrong("end.digest", f"is not that of the fragments that came; expected {expected.digest.hex()}")
        self.is_ended = True


def document_id(name: str) -> str:
    """The id in a document's name."""
    return name.rpartition("/")[2]
