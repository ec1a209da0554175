"""Requests are checked by the rules in their contract (protovalidate) before a servicer sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from isthmus.errors.v1 import errors_pb2
from protovalidate import FieldPathPb, Validator

from services.errors import FieldViolation, InvalidField, IsthmusError
from services.rpc.wire import find_bad_text

# A page of violations helps; ten thousand would be an amplifier.
VIOLATIONS_COUNT_MAX: Final = 16

_validator: Final = Validator()


class Malformed:
    """Stands in for a request whose bytes are no message, so that the rpc can answer with what is wrong."""

    def __init__(self, error: IsthmusError) -> None:
        self.error = error


def check(request: Message | Malformed) -> None:
    """Raises INVALID_ARGUMENT naming every field that breaks its rule, at most VIOLATIONS_COUNT_MAX of them."""
    if isinstance(request, Malformed):
        raise request.error
    violations = _validator.collect_violations(request)
    if violations:
        fields = [
            FieldViolation(_path(each.proto.field), each.proto.message) for each in violations[:VIOLATIONS_COUNT_MAX]
        ]
        message = "; ".join(f"{each.field}: {each.description}" for each in fields)
        raise IsthmusError(errors_pb2.ERROR_REASON_INVALID_FIELD, message, fields=fields)


def forgiving(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The deserializer with Malformed for bytes that it cannot read; gRPC would call them an internal error."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return Malformed(_explain(error, getattr(deserialize, "__self__", None), data))

    return read


def _explain(error: DecodeError, message: type[Message] | None, data: bytes) -> IsthmusError:
    bad = None if message is None else find_bad_text(cast("Descriptor", message.DESCRIPTOR), data)
    if bad is None:
        return InvalidField("request", f"expected a protobuf message: {error}")
    description = f"expected UTF-8; the byte at offset {bad.offset} is not"
    return IsthmusError(
        errors_pb2.ERROR_REASON_INVALID_UTF8,
        f"{bad.path}: {description}",
        metadata={"offset": str(bad.offset)},
        fields=[FieldViolation(bad.path, description)],
    )


def _path(path: FieldPathPb | None) -> str:
    """The dotted path with indexes and map keys: `messages[0].text`."""
    if path is None:
        return "request"
    parts: list[str] = []
    for element in path.elements:
        subscript = element.subscript
        suffix = "" if subscript is None else f"[{subscript.value}]"
        parts.append(f"{element.field_name}{suffix}")
    return ".".join(parts) or "request"
