"""How texts become fragments: cutting at safe places, token estimates, and the bytes of a log entry. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import zstandard
from google.protobuf import timestamp_pb2
from isthmus.session.v1 import fragment_pb2, message_pb2

from services.cuts import ESTIMATE_BYTES_PER_TOKEN, cut
from services.digest import fragment_digest

ESTIMATE_ITEM_TOKENS = 8

_compressor = zstandard.ZstdCompressor(level=3)
_decompressor = zstandard.ZstdDecompressor()


class CorruptBodyError(Exception):
    """A stored body cannot be decompressed, or is not UTF-8."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What all pieces of one text share; `turn` is 0 outside a turn."""

    kind: fragment_pb2.FragmentKind.ValueType
    role: message_pb2.Role.ValueType
    author: str = ""
    pinned: bool = False
    turn: int = 0
    document: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A fragment that has no place in the log yet. `size` is in UTF-8 bytes."""

    origin: Origin
    part: int
    text: str
    size: int
    digest: bytes

    @classmethod
    def make(cls, origin: Origin, part: int, text: str, size: int) -> Draft:
        return cls(origin, part, text, size, fragment_digest(origin.kind, origin.role, origin.author, part, text))

    def header(self, created: timestamp_pb2.Timestamp) -> fragment_pb2.Fragment:
        """The entry's header: everything but the text and what its place in the log says (name, sequence, tokens)."""
        return fragment_pb2.Fragment(
            kind=self.origin.kind,
            role=self.origin.role,
            author=self.origin.author,
            part=self.part,
            pinned=self.origin.pinned,
            digest=self.digest,
            turn=self.origin.turn,
            document=self.origin.document,
            create_time=created,
        )


def estimate_tokens(size: int) -> int:
    """Tokens of a window item whose text has `size` UTF-8 bytes, on the safe side: ceil(size / 3) + 8."""
    return -(-size // ESTIMATE_BYTES_PER_TOKEN) + ESTIMATE_ITEM_TOKENS


def split(text: str, bytes_max: int) -> Iterator[tuple[str, int]]:
    """The pieces of `text` in order, each with its UTF-8 bytes, of which none has more than `bytes_max`."""
    data = text.encode()
    if len(data) <= bytes_max:
        yield text, len(data)
        return
    while data:
        size = cut(data, bytes_max) if len(data) > bytes_max else len(data)
        yield data[:size].decode(), size
        data = data[size:]


def drafts(text: str, origin: Origin, bytes_max: int) -> list[Draft]:
    """The fragments of one text; none for an empty one."""
    if not text:
        return []
    return [Draft.make(origin, part, piece, size) for part, (piece, size) in enumerate(split(text, bytes_max))]


def pack(data: bytes) -> bytes:
    """The stored form of a body: one zstd frame."""
    return _compressor.compress(data)


def unpack(body: bytes) -> bytes:
    """The bytes of a stored body; CorruptBodyError if it is none."""
    try:
        return _decompressor.decompress(body)
    except zstandard.ZstdError as error:
        raise CorruptBodyError(str(error)) from error


def unpack_text(body: bytes) -> str:
    """The text of a stored body; CorruptBodyError if it is none."""
    try:
        return unpack(body).decode()
    except UnicodeDecodeError as error:
        raise CorruptBodyError(str(error)) from error
