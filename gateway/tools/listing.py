"""How the model is told of functions: a pinned system message at the head of the first turn that has them. Pure.

It stays in the log, so that a session's windows go on beginning as they did. A turn whose functions are those of the
turn before says nothing of them; one with others brings a list of its own, which takes the place of those before it.
"""

from __future__ import annotations

import json
from typing import Final

from isthmus.session.v1 import fragment_pb2, message_pb2, turn_pb2

from services.tool_calls import CLOSE, OPEN

HEADING: Final = "# Functions"
_BEFORE: Final = f"""{HEADING}

You may call the functions that are described between <tools> and </tools>. They take the place of any that were \
described before.

<tools>
"""
_AFTER: Final = f"""
</tools>

To call a function, answer with a JSON object of its name and its arguments between {OPEN} and {CLOSE}, \
and with nothing else:

{OPEN}
{{"name": <name of the function>, "arguments": <object of its arguments>}}
{CLOSE}

What a function gives back follows as a message of the tool, in the order of the calls."""


def listing(tools: message_pb2.ToolUse) -> message_pb2.Message:
    """The message that tells of these functions."""
    lines = "\n".join(_described(function) for function in tools.functions)
    return message_pb2.Message(role=message_pb2.ROLE_SYSTEM, text=f"{_BEFORE}{lines}{_AFTER}", pinned=True)


def tells_functions(fragment: fragment_pb2.Fragment) -> bool:
    """Whether such a message begins with this fragment."""
    return fragment.pinned and fragment.role == message_pb2.ROLE_SYSTEM and fragment.text.startswith(HEADING)


def is_listed(tools: message_pb2.ToolUse, before: turn_pb2.Turn | None) -> bool:
    """Whether a window that holds this turn tells of these functions already."""
    if before is None or before.state != turn_pb2.Turn.STATE_DONE:
        return False
    return list(before.params.tools.functions) == list(tools.functions)


def _described(function: message_pb2.ToolUse.Function) -> str:
    parameters = json.loads(function.parameters) if function.parameters else {"type": "object", "properties": {}}
    described = {"name": function.name, "description": function.description, "parameters": parameters}
    return json.dumps({"type": "function", "function": described}, ensure_ascii=False)
