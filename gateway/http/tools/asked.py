"""From OpenAI's functions and forms to the contract's, each error by the client's own path. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec
from isthmus.session.v1 import message_pb2

from gateway import schemas
from gateway.http.tools.shapes import (
    AllowedTools,
    ChatAllowedTools,
    ChatFunction,
    ChatFunctionChoice,
    ChatTool,
    ChatToolChoice,
    FunctionChoice,
    FunctionTool,
    JsonObjectFormat,
    TextFormat,
    ToolChoice,
)
from services.errors import InvalidField

FUNCTIONS_BYTES_MAX = 1 << 17
ANY_OBJECT = '{"type":"object"}'
ToolUse: TypeAlias = message_pb2.ToolUse


class SchemaFormat(Protocol):
    """A schema, as either API has it."""

    @property
    def schema(self) -> msgspec.Raw: ...
    @property
    def strict(self) -> bool | None: ...


@dataclass(frozen=True, slots=True)
class _Chosen:
    choice: ToolUse.Choice.ValueType
    allowed: tuple[str, ...] = ()
    path: str = "tool_choice"


def tool_use(
    tools: Sequence[FunctionTool] | None, choice: ToolChoice | None, parallel: bool | None
) -> message_pb2.ToolUse | None:
    """What /v1/responses asks for, None for no functions; InvalidField by the path of what cannot be."""
    functions = [_function(f"tools[{index}]", tool, tool.strict) for index, tool in enumerate(tools or ())]
    match choice:
        case FunctionChoice(name):
            chosen = _Chosen(ToolUse.CHOICE_REQUIRED, (name,), "tool_choice.name")
        case AllowedTools(mode, allowed):
            chosen = _Chosen(_MODES[mode], tuple(each.name for each in allowed), "tool_choice.tools")
        case _:
            chosen = _Chosen(_MODES[choice or "auto"])
    return _used(functions, chosen, parallel)


def chat_tool_use(
    tools: Sequence[ChatTool] | None, choice: ChatToolChoice | None, parallel: bool | None
) -> message_pb2.ToolUse | None:
    """What /v1/chat/completions asks for, in the same way. There a function is strict only where it says so."""
    functions = [
        _function(f"tools[{index}].function", tool.function, bool(tool.function.strict))
        for index, tool in enumerate(tools or ())
    ]
    match choice:
        case ChatFunctionChoice(function):
            chosen = _Chosen(ToolUse.CHOICE_REQUIRED, (function.name,), "tool_choice.function.name")
        case ChatAllowedTools(allowed):
            names = tuple(each.function.name for each in allowed.tools)
            chosen = _Chosen(_MODES[allowed.mode], names, "tool_choice.allowed_tools.tools")
        case _:
            chosen = _Chosen(_MODES[choice or "auto"])
    return _used(functions, chosen, parallel)


def form(path: str, wanted: TextFormat | JsonObjectFormat | SchemaFormat | None) -> message_pb2.StructuredOutput | None:
    """The form of a format, None for any text. `path` is the format's; a schema's is below it."""
    if wanted is None or isinstance(wanted, TextFormat):
        return None
    if isinstance(wanted, JsonObjectFormat):
        return message_pb2.StructuredOutput(json_schema=ANY_OBJECT)
    schema = schemas.checked(bytes(wanted.schema), f"{path}.schema", strict=wanted.strict is True)
    return message_pb2.StructuredOutput(json_schema=schema)


def check_outputs(messages: Iterable[message_pb2.Message], path: str) -> None:
    """InvalidField if a session would begin with what a function gave back to no call."""
    calls: set[str] = set()
    for message in messages:
        if message.role == message_pb2.ROLE_ASSISTANT:
            calls.add(message.author)
        elif message.role == message_pb2.ROLE_TOOL and message.author not in calls:
            raise InvalidField(
                path,
                f"has the output of {message.author[:64]!r}, a call that is not there; expected the function_call "
                "before it, or previous_response_id or conversation with it",
            )


_MODES = {
    "auto": ToolUse.CHOICE_UNSPECIFIED,
    "none": ToolUse.CHOICE_NONE,
    "required": ToolUse.CHOICE_REQUIRED,
}


def _function(path: str, tool: FunctionTool | ChatFunction, strict: bool | None) -> ToolUse.Function:
    sent = bytes(tool.parameters)
    parameters = "" if sent == b"null" else schemas.checked(sent, f"{path}.parameters", strict=strict is True)
    if parameters and json.loads(parameters).get("type", "object") != "object":
        raise InvalidField(f"{path}.parameters", "describes no object; expected type 'object', as arguments have names")
    if strict is None:
        strict = bool(parameters) and schemas.is_strict(sent)
    if strict and not parameters:
        raise InvalidField(f"{path}.parameters", "is missing, and the function is strict; expected a JSON schema")
    return ToolUse.Function(
        name=tool.name, description=tool.description or "", parameters=_compact(parameters), strict=strict
    )


def _used(functions: Sequence[ToolUse.Function], chosen: _Chosen, parallel: bool | None) -> ToolUse | None:
    names = [function.name for function in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidField(f"tools[{index}]", f"is a second function {name!r}; expected a name of its own")
    for name in chosen.allowed:
        if name not in names:
            raise InvalidField(chosen.path, f"names {name[:64]!r}, which tools has not; expected one of its functions")
    if not functions:
        if chosen.choice == ToolUse.CHOICE_REQUIRED:
            raise InvalidField("tool_choice", "requires a call, and tools has no function; expected one at least")
        return None
    size = sum(function.ByteSize() for function in functions)
    if size > FUNCTIONS_BYTES_MAX:
        raise InvalidField("tools", f"hold {size} bytes together, expected at most {FUNCTIONS_BYTES_MAX}")
    return ToolUse(functions=functions, choice=chosen.choice, allowed=chosen.allowed, single=parallel is False)


def _compact(parameters: str) -> str:
    """The same JSON in one spelling, so that white space makes no other function of it."""
    return msgspec.json.encode(msgspec.json.decode(parameters)).decode() if parameters else ""
