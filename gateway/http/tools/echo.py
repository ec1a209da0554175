"""What a response gives back of the functions and the form that it was asked with, as the turn has kept them. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from isthmus.session.v1 import message_pb2

from gateway.http.tools.asked import ANY_OBJECT
from gateway.http.tools.shapes import TextConfig

_NAME = "response"


def tools(params: message_pb2.SamplingParams) -> list[dict[str, Any]]:
    """The functions."""
    return [
        {
            "type": "function",
            "name": function.name,
            "description": function.description or None,
            "parameters": json.loads(function.parameters) if function.parameters else None,
            "strict": function.strict,
        }
        for function in params.tools.functions
    ]


def tool_choice(params: message_pb2.SamplingParams) -> str | dict[str, Any]:
    """Which of them may be called, or must be."""
    asked = params.tools
    is_required = asked.choice == message_pb2.ToolUse.CHOICE_REQUIRED
    if len(asked.allowed) == 1 and is_required:
        return {"type": "function", "name": asked.allowed[0]}
    if asked.allowed:
        named = [{"type": "function", "name": name} for name in asked.allowed]
        return {"type": "allowed_tools", "mode": "required" if is_required else "auto", "tools": named}
    if asked.choice == message_pb2.ToolUse.CHOICE_NONE:
        return "none"
    return "required" if is_required else "auto"


def format_echo(sent: TextConfig | None) -> dict[str, Any] | None:
    """The form as it was sent, None for none."""
    if sent is None or sent.format is None:
        return None
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(sent.format))
    return shown


def text_format(params: message_pb2.SamplingParams) -> dict[str, Any]:
    """The form. A schema's name is not kept."""
    if not params.structured_output.HasField("json_schema"):
        return {"type": "text"}
    schema = params.structured_output.json_schema
    if schema == ANY_OBJECT:
        return {"type": "json_object"}
    return {"type": "json_schema", "name": _NAME, "schema": json.loads(schema), "strict": True}
