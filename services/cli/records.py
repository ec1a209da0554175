"""Files of an export: JSON Lines, or protobuf with each record behind its length as a varint."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import BinaryIO, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from isthmus.session.v1 import record_pb2

from services.cli.errors import CliError

Record = record_pb2.SessionRecord

# A record is a fragment's text and its header at most, or a turn with its receipt; as JSON up to six times that.
RECORD_BYTES_MAX: Final = 8 << 20
_VARINT_BYTES_MAX: Final = 10


class Format(Enum):
    """How the records are written."""

    JSONL = "jsonl"
    PROTOBUF = "protobuf"


def write(file: BinaryIO, record: Record, form: Format) -> None:
    """Adds a record."""
    if form is Format.JSONL:
        line = json_format.MessageToJson(record, indent=None, ensure_ascii=False, preserving_proto_field_name=True)
        file.write(line.encode() + b"\n")
    else:
        data = record.SerializeToString()
        file.write(_varint(len(data)) + data)


def read(file: BinaryIO, name: str) -> Iterator[Record]:
    """The records of a file, in whichever of the two forms; CliError names the one that cannot be read."""
    head = file.read(2)
    file.seek(0)
    # A protobuf record of this length would go on with the tag of its header.
    return _lines(file, name) if head[:1] == b"{" and head[1:] != b"\n" else _delimited(file, name)


def _lines(file: BinaryIO, name: str) -> Iterator[Record]:
    number = 0
    while line := file.readline(RECORD_BYTES_MAX + 1):
        number += 1
        if len(line) > RECORD_BYTES_MAX:
            raise _wrong(name, f"line {number}", f"is longer than {RECORD_BYTES_MAX} bytes")
        try:
            yield json_format.Parse(line, Record())
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise _wrong(name, f"line {number}", str(error)) from None


def _delimited(file: BinaryIO, name: str) -> Iterator[Record]:
    index = 0
    while (size := _length(file, name, index)) is not None:
        data = file.read(size)
        if len(data) < size:
            raise _wrong(name, f"records[{index}]", f"ends after {len(data)} of {size} bytes")
        try:
            yield Record.FromString(data)
        except DecodeError as error:
            raise _wrong(name, f"records[{index}]", str(error)) from None
        index += 1


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _length(file: BinaryIO, name: str, index: int) -> int | None:
    """The length in front of a record; None at the end of the file."""
    length = 0
    for place in range(_VARINT_BYTES_MAX):
        byte = file.read(1)
        if not byte and place == 0:
            return None
        if not byte:
            break
        length |= (byte[0] & 0x7F) << (7 * place)
        if not byte[0] & 0x80:
            if length > RECORD_BYTES_MAX:
                raise _wrong(name, f"records[{index}]", f"is {length} bytes long; expected at most {RECORD_BYTES_MAX}")
            return length
    raise _wrong(name, f"records[{index}]", "has no length in front of it")


def _wrong(name: str, place: str, problem: str) -> CliError:
    return CliError(
        "FILE", f"{name}: {place}: {problem}; expected a SessionRecord, as `isthmus sessions export` writes"
    )
