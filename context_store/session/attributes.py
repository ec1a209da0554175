"""A document's attributes and how it is divided: what callers may set, and what of it is refused. Pure."""

from __future__ import annotations

import math
from typing import Final

from google.protobuf import struct_pb2
from isthmus.session.v1 import document_pb2

from services.errors import InvalidField
from services.passages import TOKENS_DEFAULT

COUNT_MAX: Final = 16
KEY_CHARS_MAX: Final = 64
VALUE_CHARS_MAX: Final = 512


def check_attributes(attributes: struct_pb2.Struct, field: str) -> None:
    """INVALID_FIELD names what is not an attribute: 16 at most, each a string, a number or a bool."""
    if len(attributes.fields) > COUNT_MAX:
        raise InvalidField(field, f"has {len(attributes.fields)} entries; expected at most {COUNT_MAX}")
    for key, value in attributes.fields.items():
        if not 1 <= len(key) <= KEY_CHARS_MAX:
            raise InvalidField(field, f"has the key {key[:80]!r}; expected 1 to {KEY_CHARS_MAX} characters")
        check_value(value, f"{field}.{key}")


def check_value(value: struct_pb2.Value, field: str) -> None:
    """INVALID_FIELD for what is no attribute's value."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        if len(value.string_value) > VALUE_CHARS_MAX:
            raise InvalidField(field, f"is a string of {len(value.string_value)}; expected at most {VALUE_CHARS_MAX}")
    elif kind == "number_value":
        if not math.isfinite(value.number_value):
            raise InvalidField(field, f"is {value.number_value}; expected a finite number")
    elif kind != "bool_value":
        raise InvalidField(field, f"is {(kind or 'nothing').removesuffix('_value')}; expected string, number or bool")


def passage_tokens(header: document_pb2.DocumentPart.Header) -> tuple[int, int]:
    """(tokens of a passage at most, tokens that it shares with the one before), with the defaults for what is unset."""
    tokens_max = header.passage_tokens_max or TOKENS_DEFAULT
    is_set = header.HasField("passage_overlap_tokens")
    overlap = header.passage_overlap_tokens if is_set else tokens_max // 2
    if 2 * overlap > tokens_max:
        raise InvalidField(
            "part.header.passage_overlap_tokens", f"is {overlap}; expected at most half of {tokens_max}, a passage's"
        )
    return tokens_max, overlap
