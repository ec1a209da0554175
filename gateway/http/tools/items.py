"""A reply as OpenAI's output items, and messages that carry calls as the items that they are. Pure.

Items are numbered in the reply's order. The first one has the id that the reply has had since its stream began.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from isthmus.session.v1 import message_pb2, turn_pb2

from gateway.http.ids import ItemKind, MessageId, ResponseId
from gateway.http.objects import FunctionCall, FunctionCallOutput, InputText, Item, Message, OutputText
from gateway.tools.calls import Call, split

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
_ROLES = {
    message_pb2.ROLE_SYSTEM: "system",
    message_pb2.ROLE_USER: "user",
    message_pb2.ROLE_ASSISTANT: "assistant",
    message_pb2.ROLE_TOOL: "tool",
}


def tools_of(params: message_pb2.SamplingParams) -> message_pb2.ToolUse | None:
    """What a reply under these parameters may call."""
    return params.tools if params.HasField("tools") else None


def output_items(name: ResponseId, turn: turn_pb2.Turn) -> list[Item]:
    """The items of a turn's reply: a text, calls, or both; an empty text where the reply says nothing."""
    is_cut = turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    return reply_items(name.session, name.turn, turn.output_text, tools_of(turn.params), is_cut=is_cut)


def reply_items(
    session: str, turn: int, text: str, tools: message_pb2.ToolUse | None, *, is_cut: bool = False
) -> list[Item]:
    """As `output_items`; only the last item of a reply that was cut is incomplete."""
    parts = split(text, tools) or [""]
    last = len(parts) - 1
    return [_of_part(session, turn, index, part, is_cut and index == last) for index, part in enumerate(parts)]


def said(session: str, turn: int, index: int, text: str, status: Status) -> Message:
    """A text within a reply."""
    name = MessageId(session, turn, is_reply=True, index=index)
    return Message(id=str(name), role="assistant", status=status, content=[OutputText(text)])


def called(session: str, turn: int, index: int, call: Call, status: Status) -> FunctionCall:
    """A call within a reply."""
    name = MessageId(session, turn, is_reply=True, index=index, kind=ItemKind.CALL)
    return FunctionCall(
        id=str(name), call_id=call_id(session, turn, index), name=call.name, arguments=call.arguments, status=status
    )


def call_id(session: str, turn: int, index: int) -> str:
    """The id by which a function's output names the call that it is of: a place, as all ids here."""
    return f"call_{session}_{turn}_{index}"


def message(session: str, sequence: int, role: message_pb2.Role.ValueType, text: str, author: str) -> Item:
    """A message that a client sent: a call, what a function gave back, or a text."""
    if role == message_pb2.ROLE_TOOL:
        name = MessageId(session, sequence, kind=ItemKind.OUTPUT)
        return FunctionCallOutput(id=str(name), call_id=author, output=text, status="completed")
    call = _only_call(text) if role == message_pb2.ROLE_ASSISTANT and author else None
    if call is not None:
        name = MessageId(session, sequence, kind=ItemKind.CALL)
        return FunctionCall(id=str(name), call_id=author, name=call.name, arguments=call.arguments, status="completed")
    content = OutputText(text) if role == message_pb2.ROLE_ASSISTANT else InputText(text)
    name = MessageId(session, sequence)
    return Message(id=str(name), role=_ROLES.get(role, "unknown"), status="completed", content=[content])


def _of_part(session: str, turn: int, index: int, part: str | Call, is_cut: bool) -> Item:
    if isinstance(part, str):
        return said(session, turn, index, part, "incomplete" if is_cut else "completed")
    return called(session, turn, index, part, "completed" if part.is_whole and not is_cut else "incomplete")


def _only_call(text: str) -> Call | None:
    """The call that a whole message is, whichever function it calls."""
    named = text.partition('"name": "')[2].partition('"')[0]
    parts = split(text, message_pb2.ToolUse(functions=[message_pb2.ToolUse.Function(name=named)]))
    return parts[0] if len(parts) == 1 and isinstance(parts[0], Call) else None
