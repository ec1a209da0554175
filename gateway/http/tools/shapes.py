"""What clients may send of functions and forms, in the way of `gateway/http/shapes.py`.

`/v1/responses` has its fields flat, `/v1/chat/completions` under a name of their own.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, field

FUNCTIONS_COUNT_MAX = 128


def raw_null() -> Raw:
    """Left out is as null. A function, because Litestar's schema wants hashable defaults."""
    return Raw(b"null")


FunctionName: TypeAlias = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionTool(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function of the client's. Without `strict` it is kept to its schema where that is a strict one."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Raw = field(default_factory=raw_null)
    strict: bool | None = None


class FunctionChoice(msgspec.Struct, forbid_unknown_fields=True, tag="function"):
    """This function is called."""

    name: str


class AllowedFunction(msgspec.Struct, forbid_unknown_fields=True):
    """A function by its name."""

    type: Literal["function"]
    name: str


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True, tag="allowed_tools"):
    """Only these may be called."""

    mode: Literal["auto", "required"]
    tools: list[AllowedFunction]


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | FunctionChoice | AllowedTools


class ChatFunction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function of the client's. It is kept to its schema where `strict` says so."""

    name: FunctionName
    description: str | None = None
    parameters: Raw = field(default_factory=raw_null)
    strict: bool | None = None


class ChatTool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that is a function."""

    type: Literal["function"]
    function: ChatFunction


class ChatFunctionName(msgspec.Struct, forbid_unknown_fields=True):
    """A function by its name."""

    name: str


class ChatFunctionChoice(msgspec.Struct, forbid_unknown_fields=True, tag="function"):
    """This function is called."""

    function: ChatFunctionName


class ChatAllowedFunction(msgspec.Struct, forbid_unknown_fields=True):
    """A function by its name."""

    type: Literal["function"]
    function: ChatFunctionName


class ChatAllowed(msgspec.Struct, forbid_unknown_fields=True):
    """Only these may be called."""

    mode: Literal["auto", "required"]
    tools: list[ChatAllowedFunction]


class ChatAllowedTools(msgspec.Struct, forbid_unknown_fields=True, tag="allowed_tools"):
    """Only these may be called."""

    allowed_tools: ChatAllowed


ChatToolChoice: TypeAlias = Literal["none", "auto", "required"] | ChatFunctionChoice | ChatAllowedTools


class ChatCalled(msgspec.Struct, forbid_unknown_fields=True):
    """What a call calls; `arguments` are as the model wrote them."""

    name: FunctionName
    arguments: str


class ChatToolCall(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A call that an answer has made; `index` comes along from streams."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    function: ChatCalled
    type: Literal["function"] = "function"
    index: int | None = None


class TextFormat(msgspec.Struct, forbid_unknown_fields=True, tag="text"):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, forbid_unknown_fields=True, tag="json_object"):
    """Any JSON object."""


class JsonSchemaFormat(msgspec.Struct, forbid_unknown_fields=True, tag="json_schema", kw_only=True):
    """JSON of a schema. Name and description are given back and not shown to the model."""

    name: FunctionName
    schema: Raw
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How an answer is written. The only verbosity is that of the model."""

    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    verbosity: Literal["medium"] | None = None
