"""Calls as the grammars of vLLM's guidance backend have them, which leaves no blanks to a small model. Pure.

Its structural tags are free text with calls in it. Where the reply has to be calls, or has a form instead of them, it
is a grammar in llguidance's dialect of Lark.
"""

from __future__ import annotations

import json
from typing import Any

from isthmus.session.v1 import message_pb2

from inference.forms import ANY_OBJECT
from services.tool_calls import OPEN, TAIL, callable_names, head

# As the room asks of every schema.
_TIGHT = {"x-guidance": {"whitespace_flexible": False}}


def guidance(form: message_pb2.StructuredOutput | None, tools: message_pb2.ToolUse) -> dict[str, str] | None:
    """The parameter of StructuredOutputsParams, by name, that has the reply call as it may; None where it may not."""
    names = callable_names(tools)
    functions = [function for function in tools.functions if function.name in names]
    if not functions:
        return None
    if tools.choice != message_pb2.ToolUse.CHOICE_REQUIRED and form is None:
        structures = [
            {"begin": head(function.name), "schema": json.loads(_arguments(function)), "end": TAIL}
            for function in functions
        ]
        return {"structural_tag": json.dumps({"structures": structures, "triggers": [OPEN]})}
    rules = [f"call_{index}: {_call(function)}" for index, function in enumerate(functions)]
    one = " | ".join(f"call_{index}" for index in range(len(functions)))
    calls = f"({one})" if tools.single else f'({one}) ("\\n" ({one}))*'
    start = calls if tools.choice == message_pb2.ToolUse.CHOICE_REQUIRED or form is None else f"form | {calls}"
    said = [] if form is None or start == calls else [f"form: {_form(form)}"]
    return {"grammar": "\n".join([f"start: {start}", *rules, *said])}


def _call(function: message_pb2.ToolUse.Function) -> str:
    return f"{_text(head(function.name))} {_json(_arguments(function))} {_text(TAIL)}"


def _form(form: message_pb2.StructuredOutput) -> str:
    match form.WhichOneof("form"):
        case "regex":
            return "/" + form.regex.replace("/", "\\/") + "/"
        case "choices":
            return " | ".join(_text(each) for each in form.choices.texts)
        case _:
            return _json(form.json_schema)


def _json(schema: str) -> str:
    read: Any = json.loads(schema)
    return f"%json {json.dumps({**_TIGHT, **read} if isinstance(read, dict) else read)}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _arguments(function: message_pb2.ToolUse.Function) -> str:
    return function.parameters if function.strict and function.parameters else ANY_OBJECT
