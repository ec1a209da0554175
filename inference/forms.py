"""What a reply must look like, as a structural tag of xgrammar, to which both vLLM and OpenVINO keep. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from isthmus.session.v1 import message_pb2

from services.tool_calls import OPEN, TAIL, callable_names, head

Format: TypeAlias = dict[str, Any]
ANY_OBJECT: Final = '{"type": "object"}'


def structural_tag(
    form: message_pb2.StructuredOutput | None,
    tools: message_pb2.ToolUse | None,
    schema: Callable[[str], Any] = json.loads,
) -> str | None:
    """The tag as JSON, None where a reply may be anything. `schema` reads a JSON schema into what the engine takes.

    A call may stand beside text, or in place of a text that has a form. Its arguments keep to the function's schema
    where that is strict, and are any JSON object otherwise.
    """
    of_calls = _calls(tools, schema) if tools is not None else None
    of_text = None if form is None else _form(form, schema)
    if of_calls is None:
        kept = of_text
    elif tools is not None and tools.choice == message_pb2.ToolUse.CHOICE_REQUIRED:
        kept = of_calls
    elif of_text is not None:
        kept = {"type": "or", "elements": [of_text, of_calls]}
    else:
        kept = {
            "type": "triggered_tags",
            "triggers": [OPEN],
            "tags": of_calls["tags"],
            "at_least_one": False,
            "stop_after_first": of_calls["stop_after_first"],
        }
    return None if kept is None else json.dumps({"type": "structural_tag", "format": kept})


def _form(form: message_pb2.StructuredOutput, schema: Callable[[str], Any]) -> Format:
    match form.WhichOneof("form"):
        case "regex":
            return {"type": "regex", "pattern": form.regex}
        case "choices":
            return {"type": "or", "elements": [{"type": "const_string", "value": each} for each in form.choices.texts]}
        case _:
            return {"type": "json_schema", "json_schema": schema(form.json_schema)}


def _calls(tools: message_pb2.ToolUse, schema: Callable[[str], Any]) -> Format | None:
    """One call or more, None where none may be made."""
    names = callable_names(tools)
    tags = [
        {
            "type": "tag",
            "begin": head(function.name),
            "content": {"type": "json_schema", "json_schema": schema(_arguments(function))},
            "end": TAIL,
        }
        for function in tools.functions
        if function.name in names
    ]
    if not tags:
        return None
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": tools.single,
    }


def _arguments(function: message_pb2.ToolUse.Function) -> str:
    return function.parameters if function.strict and function.parameters else ANY_OBJECT
