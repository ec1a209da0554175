"""A protobuf message as plain Python for `--json`: numbers stay numbers, enums lose their prefix, bytes are hex."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp


def plain(message: Message) -> dict[str, Any]:
    """Every field by its name in the contract; what has presence and is unset is left out."""
    return {
        field.name: _field(message, cast("FieldDescriptor", field))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_value(field, each) for each in value]
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Struct):
        return MessageToDict(value)
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return value.hex()
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    return value


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """`done` for `STATE_DONE`; the number itself where this contract does not know it."""
    known = enum.values_by_number.get(number)
    if known is None:
        return str(number)
    names = [each.name for each in enum.values]
    prefix = names[0].removesuffix("UNSPECIFIED")
    return known.name.removeprefix(prefix).lower()
