"""A document as its session's hash has it: what its stream wrote, what its owner changed, and its vectors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from isthmus.session.v1 import document_pb2

# What stands behind a document's id in the names of its fields; an id has no colon.
PARTS: Final = ("", ":place", ":own", ":vectors", ":gone")
DELETING: Final = b"deleting"


class VectorState(msgspec.Struct, frozen=True, array_like=True):
    """How far a document's passages have vectors: `batches` are the first passages of what is stored together.

    `source` is the digest of what they were made from. With an `error_code` there will be no more.
    """

    embedder: str
    dimensions: int
    source: bytes
    passage_count: int
    embedded_count: int
    batches: tuple[int, ...] = ()
    error_code: str = ""
    error_message: str = ""

    @property
    def is_final(self) -> bool:
        """Whether no more vectors are to come."""
        return bool(self.error_code) or self.embedded_count >= self.passage_count

    def encode(self) -> bytes:
        return _encoder.encode(self)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(VectorState)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as callers see it, with the stored bytes that a change of it has to find unchanged."""

    document: document_pb2.Document
    place: bytes = b""
    own: bytes = b""
    vectors: bytes = b""
    is_gone: bool = False
    # An ancestor of the fork that shows it has it.
    is_inherited: bool = False

    @property
    def id(self) -> str:
        return self.document.name.rpartition("/")[2]

    @property
    def state(self) -> VectorState | None:
        """How far it has vectors; None where nobody has begun."""
        return _decoder.decode(self.vectors) if self.vectors else None

    @property
    def is_complete(self) -> bool:
        return self.document.state == document_pb2.Document.STATE_COMPLETE


def vectors_name(document_id: str, first: int) -> str:
    """The name of the vectors of a document's passages from `first` on, among the session's."""
    return f"{document_id}:{first}"


def fields_of(document_id: str) -> list[str]:
    """The names of all that the hash has of a document."""
    return [document_id + part for part in PARTS]


def stored_document(values: Mapping[str, bytes | None]) -> StoredDocument | None:
    """The document of these fields, each without the id; None where its stream has written nothing yet."""
    stored, place, own, vectors, gone = (values.get(part) or b"" for part in PARTS)
    if not place:
        return None
    document = document_pb2.Document.FromString(stored)
    _, _, first, last = place.split(b":")
    document.first_sequence, document.last_sequence = int(first), int(last)
    return with_parts(StoredDocument(document, place, own, vectors, gone == DELETING))


def with_parts(stored: StoredDocument) -> StoredDocument:
    """The same, its document with what its owner changed and how far it has vectors."""
    document, state = stored.document, stored.state
    if stored.own:
        own = document_pb2.Document.FromString(stored.own)
        document.attributes.CopyFrom(own.attributes)
        document.etag = own.etag
    if state:
        document.embedder, document.passage_count = state.embedder, state.passage_count
        document.embedded_count = state.embedded_count
    if state and state.error_code:
        document.error.code, document.error.message = state.error_code, state.error_message
    return stored
