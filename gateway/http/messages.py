"""From OpenAI's input to the messages of a turn, each text checked against the contract's bounds by its own path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isthmus.session.v1 import message_pb2
from msgspec import UnsetType

from gateway.bounds import MESSAGES_BYTES_MAX
from gateway.http.shapes import MESSAGES_COUNT_MAX, CreateResponse, Item, Part
from gateway.tools.calls import Call, joined
from services.errors import InvalidField

TEXT_BYTES_MAX = 1 << 20
METADATA_COUNT_MAX = 16
METADATA_KEY_BYTES_MAX = 64
METADATA_VALUE_BYTES_MAX = 512
RESERVED_PREFIX = "isthmus."
_HINT = "stream longer texts into the session as a document: `isthmus ingest FILE --session ID`"
ROLES_BY_NAME = {
    "system": message_pb2.ROLE_SYSTEM,
    "developer": message_pb2.ROLE_SYSTEM,
    "user": message_pb2.ROLE_USER,
    "assistant": message_pb2.ROLE_ASSISTANT,
}


def turn_messages(request: CreateResponse, head: Sequence[message_pb2.Message] = ()) -> list[message_pb2.Message]:
    """The messages of a turn: `head`, instructions, input; InvalidField by the name of the parameter."""
    messages = [*head]
    if request.instructions:
        messages.append(_message("instructions", message_pb2.ROLE_SYSTEM, request.instructions))
    if isinstance(request.input, str):
        messages.append(_message("input", message_pb2.ROLE_USER, request.input))
    else:
        messages += [_of_item(item, f"input[{index}]") for index, item in enumerate(request.input)]
    if len(messages) > MESSAGES_COUNT_MAX:
        raise InvalidField("input", f"makes {len(messages)} messages with instructions, expected {MESSAGES_COUNT_MAX}")
    return _bounded(messages, "input")


def item_messages(items: Sequence[Item], param: str = "items") -> list[message_pb2.Message]:
    """The messages to append to a conversation; InvalidField by the item's path."""
    return _bounded([_of_item(item, f"{param}[{index}]") for index, item in enumerate(items)], param)


def labels(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata as a session's labels, within OpenAI's bounds; InvalidField by the entry's path."""
    metadata = dict(metadata or {})
    if len(metadata) > METADATA_COUNT_MAX:
        raise InvalidField("metadata", f"has {len(metadata)} entries, expected at most {METADATA_COUNT_MAX}")
    for key, value in metadata.items():
        _check_label(key, value)
    return metadata


def _check_label(key: str, value: str) -> None:
    name = f"metadata.{key[:METADATA_KEY_BYTES_MAX]}"
    if not 1 <= len(key.encode()) <= METADATA_KEY_BYTES_MAX:
        raise InvalidField(name, f"has a key of {len(key.encode())} bytes, expected 1 to {METADATA_KEY_BYTES_MAX}")
    if key.startswith(RESERVED_PREFIX):
        raise InvalidField(name, f"begins with {RESERVED_PREFIX!r}, which is kept for the mesh; expected another key")
    if len(value.encode()) > METADATA_VALUE_BYTES_MAX:
        raise InvalidField(name, f"is {len(value.encode())} bytes long, expected at most {METADATA_VALUE_BYTES_MAX}")


def _of_item(item: Item, path: str) -> message_pb2.Message:
    """A message of an item: a call as its text, what it gave back as the tool's words with the call's id as author."""
    if item.type == "function_call":
        text = joined("", [Call(str(item.name), str(item.arguments))])
        made = _message(f"{path}.arguments", message_pb2.ROLE_ASSISTANT, text)
        made.author = str(item.call_id)
        return made
    if item.type == "function_call_output":
        return tool_message(f"{path}.output", _text(f"{path}.output", item.output), str(item.call_id))
    return _message(f"{path}.content", ROLES_BY_NAME[str(item.role)], _text(f"{path}.content", item.content))


def tool_message(path: str, output: str, call_id: str) -> message_pb2.Message:
    """What a function gave back. The log has no message without a text: nothing is a line break there."""
    made = _message(path, message_pb2.ROLE_TOOL, output or "\n")
    made.author = call_id
    return made


def _text(path: str, content: str | list[Part] | UnsetType) -> str:
    """The text of a content; its parts are joined by line breaks."""
    if isinstance(content, str | UnsetType):
        return content or ""
    for index, part in enumerate(content):
        check_text(f"{path}[{index}].text", part.text)
    return "\n".join(part.text for part in content)


def _message(path: str, role: message_pb2.Role.ValueType, text: str) -> message_pb2.Message:
    if not text:
        raise InvalidField(path, "is empty, expected a text")
    check_text(path, text)
    return message_pb2.Message(role=role, text=text)


def check_text(path: str, text: str) -> None:
    """InvalidField on `path` for a text that is longer than the contract takes."""
    size = len(text.encode())
    if size > TEXT_BYTES_MAX:
        raise InvalidField(path, f"is {size} bytes of UTF-8, expected at most {TEXT_BYTES_MAX}; {_HINT}")


def _bounded(messages: list[message_pb2.Message], param: str) -> list[message_pb2.Message]:
    size = sum(message.ByteSize() for message in messages)
    if size > MESSAGES_BYTES_MAX:
        raise InvalidField(param, f"holds {size} bytes in all, expected at most {MESSAGES_BYTES_MAX}; {_HINT}")
    return messages
