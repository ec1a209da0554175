"""Finds the text that keeps a request from being read: protobuf's parser says only that there is one.

The encoding is https://protobuf.dev/programming-guides/encoding. Pure, and run on refused requests alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

# As deep as protobuf's own parser goes.
DEPTH_MAX: Final = 100

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10


class BadText(NamedTuple):
    """A string field that is not UTF-8: its dotted path, and the offset of the first bad byte within the text."""

    path: str
    offset: int


class _Entry(NamedTuple):
    number: int
    payload: bytes


def find_bad_text(message: Descriptor, data: bytes, depth: int = 0) -> BadText | None:
    """The first string in an encoded message that is not UTF-8; None if there is none, or the bytes end early."""
    counts: dict[int, int] = {}
    for number, payload in _payloads(data):
        field = message.fields_by_number.get(number)
        if field is None:
            continue
        index = counts.get(number, 0)
        counts[number] = index + 1
        name = f"{field.name}[{index}]" if field.is_repeated else field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            if (offset := _bad_offset(payload)) is not None:
                return BadText(name, offset)
        elif field.message_type is not None and depth < DEPTH_MAX:
            inner = find_bad_text(field.message_type, payload, depth + 1)
            if inner is not None:
                return BadText(f"{name}.{inner.path}", inner.offset)
    return None


def _bad_offset(text: bytes) -> int | None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _payloads(data: bytes) -> Iterator[_Entry]:
    """The length-delimited entries in order; stops where the bytes are no protobuf."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _LENGTH:
            length, position = _varint(data, position)
            if position + length > len(data):
                return
            yield _Entry(tag >> 3, data[position : position + length])
            position += length
        else:
            return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    # Cut off in the middle: as if nothing followed.
    return 0, len(data)
