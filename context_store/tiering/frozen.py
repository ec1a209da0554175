"""The form of a session as one object: records of msgpack, each behind its length, in one zstd stream. Pure.

A header, then pages of the session's keys, then a trailer with the number of things in each key and a BLAKE2b-128 of
all bytes before it. Neither side ever holds more than one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

import msgspec
import zstandard

FORMAT: Final = 1
_LENGTH_BYTES: Final = 4
_DIGEST_BYTES: Final = 16
# A page ends with the entry that passes its bound, and an entry may be a summary of 512 KiB.
_RECORD_BYTES_MAX: Final = 16 << 20
# Compressed bytes that are unpacked at once.
_SLICE_BYTES: Final = 64 << 10
_LEVEL: Final = 3
# Records up to here are compressed in one go, for a stream of unknown length costs zstd tables of a megabyte.
_WHOLE_BYTES_MAX: Final = 64 << 10

Kind: TypeAlias = Literal["hash", "set", "stream"]


class CorruptObjectError(Exception):
    """The bytes are no whole object of this format; says what was wrong and what was expected."""


class Header(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Whose object it is."""

    format: int
    tenant: str
    session: str
    incarnation: bytes


class Page(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Part of one key: field and value, or member, or id and the three values of a log's entry, one after the other."""

    key: str
    kind: Kind
    flat: list[bytes]


class Trailer(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """How many fields, members or entries each key has, and the digest of all records before."""

    counts: dict[str, int]
    digest: bytes


Record: TypeAlias = Header | Page | Trailer

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


class Packer:
    """Makes an object's bytes, record after record."""

    def __init__(self, tenant: str, session: str, incarnation: bytes) -> None:
        self._header = Header(FORMAT, tenant, session, incarnation)
        # What was packed so far, until it is too much to be compressed in one go.
        self._whole = bytearray()
        self._zstd: zstandard.ZstdCompressionObj | None = None
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        self.records_digest = b""

    def begin(self) -> bytes:
        return self._pack(self._header)

    def page(self, page: Page) -> bytes:
        return self._pack(page)

    def end(self, counts: dict[str, int]) -> bytes:
        """The trailer, and what the compressor still holds. `records_digest` is what it says from now on."""
        self.records_digest = self._digest.digest()
        packed = self._pack(Trailer(counts, self.records_digest))
        if self._zstd is None:
            return zstandard.ZstdCompressor(level=_LEVEL).compress(bytes(self._whole))
        return packed + self._zstd.flush()

    def _pack(self, record: Record) -> bytes:
        body = _encoder.encode(record)
        framed = len(body).to_bytes(_LENGTH_BYTES, "big") + body
        self._digest.update(framed)
        if self._zstd is None:
            self._whole += framed
            if len(self._whole) <= _WHOLE_BYTES_MAX:
                return b""
            self._zstd = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
            framed, self._whole = bytes(self._whole), bytearray()
        return self._zstd.compress(framed)


class Unpacker:
    """Reads an object's bytes as they come. Whoever takes its pages early may not rely on them before `trailer`."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor().decompressobj()
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        self._rest = bytearray()
        self._header: Header | None = None
        self._trailer: Trailer | None = None

    def feed(self, data: bytes) -> Iterator[Page]:
        """The pages that these bytes complete. Raises CorruptObjectError."""
        for start in range(0, len(data), _SLICE_BYTES):
            try:
                self._rest += self._zstd.decompress(data[start : start + _SLICE_BYTES])
            except zstandard.ZstdError as error:
                raise CorruptObjectError(f"it is no zstd stream: {error}") from error
            for record in self._records():
                if isinstance(record, Page):
                    yield record

    def trailer(self) -> Trailer:
        """What the object says of itself, once all of its bytes were fed. Raises CorruptObjectError."""
        if self._trailer is None or self._rest:
            raise CorruptObjectError("it ends in the middle; expected a trailer as its last record")
        return self._trailer

    def _records(self) -> Iterator[Record]:
        while len(self._rest) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._rest[:_LENGTH_BYTES], "big")
            if end > _RECORD_BYTES_MAX:
                raise CorruptObjectError(f"a record has {end} bytes; expected at most {_RECORD_BYTES_MAX}")
            if len(self._rest) < end:
                return
            framed = bytes(self._rest[:end])
            del self._rest[:end]
            yield self._checked(framed)

    def _checked(self, framed: bytes) -> Record:
        try:
            record: Record = _decoder.decode(memoryview(framed)[_LENGTH_BYTES:])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptObjectError(f"a record cannot be read: {error}") from error
        if self._trailer is not None:
            raise CorruptObjectError("a record comes behind the trailer; expected the end")
        if isinstance(record, Trailer):
            if record.digest != self._digest.digest():
                raise CorruptObjectError("its digest does not fit its records")
            self._trailer = record
        elif isinstance(record, Header) != (self._header is None):
            raise CorruptObjectError("expected one header, as its first record")
        elif isinstance(record, Header):
            if record.format != FORMAT:
                raise CorruptObjectError(f"it has format {record.format}; expected {FORMAT}")
            self._header = record
        self._digest.update(framed)
        return record

    def belongs_to(self, tenant: str, session: str, incarnation: bytes) -> bool:
        """Whether its header names this session."""
        return self._header == Header(FORMAT, tenant, session, incarnation)
