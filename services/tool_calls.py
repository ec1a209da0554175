"""How a call of a function stands in a reply's text, as models of the Hermes kind write it. Pure.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

The log keeps calls as this text: so windows, digests, summaries and prefix caches know nothing of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from isthmus.session.v1 import message_pb2

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"


def head(name: str) -> str:
    """What stands before the arguments of a call."""
    return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": '


TAIL: Final = f"}}\n{CLOSE}"


def call(name: str, arguments: str) -> str:
    """A whole call; `arguments` is a JSON object, as text."""
    return f"{head(name)}{arguments}{TAIL}"


def callable_names(tools: message_pb2.ToolUse) -> Collection[str]:
    """The functions that a reply may call."""
    if tools.choice == message_pb2.ToolUse.CHOICE_NONE:
        return ()
    return frozenset(tools.allowed) or [function.name for function in tools.functions]
