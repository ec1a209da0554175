"""From a turn to OpenAI's Response, and from a receipt to plain JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.message import Message as Proto
from isthmus.session.v1 import message_pb2, turn_pb2

from gateway.http.ids import ResponseId
from gateway.http.objects import (
    ConversationRef,
    IncompleteDetails,
    InputDetails,
    Isthmus,
    OutputDetails,
    Response,
    ResponseError,
    Status,
    TextConfig,
    Usage,
)
from gateway.http.tools import echo as told
from gateway.http.tools.items import output_items
from services.errors import reason_name

_STATUS: Mapping[int, Status] = {
    turn_pb2.Turn.STATE_OPEN: "in_progress",
    turn_pb2.Turn.STATE_DONE: "completed",
    turn_pb2.Turn.STATE_FAILED: "failed",
    turn_pb2.Turn.STATE_CANCELLED: "cancelled",
    turn_pb2.Turn.STATE_EXPIRED: "failed",
}
_EXPIRED = ResponseError("expired", "its driver was lost, and another turn was opened before anybody took it over")


@dataclass(frozen=True, slots=True)
class Echo:
    """What a response gives back of its request, and of the session around it; a turn itself does not know these."""

    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    store: bool = True
    truncation: Literal["auto", "disabled"] = "auto"
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Whether it runs, or ran, in the background, and whether it waits there.
    background: bool = False
    is_queued: bool = False
    # As it was sent; None where only the turn knows it.
    text_format: dict[str, Any] | None = None


def response(name: ResponseId, turn: turn_pb2.Turn, echo: Echo) -> Response:
    """The turn as a Response: `completed`, `incomplete` at its length limit, `in_progress`, `failed` or `cancelled`."""
    is_cut = turn.state == turn_pb2.Turn.STATE_DONE and turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    is_done = turn.state == turn_pb2.Turn.STATE_DONE
    params = turn.params
    return Response(
        id=str(name),
        created_at=turn.create_time.seconds,
        completed_at=turn.end_time.seconds if is_done else None,
        status="incomplete" if is_cut else _status(turn, echo),
        background=echo.background,
        error=error_of(turn),
        incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
        instructions=echo.instructions,
        max_output_tokens=params.max_output_tokens if params.HasField("max_output_tokens") else None,
        model=turn.receipt.model or turn.model,
        output=output_items(name, turn) if is_done else [],
        parallel_tool_calls=not params.tools.single,
        previous_response_id=echo.previous_response_id,
        conversation=ConversationRef(echo.conversation) if echo.conversation else None,
        prompt_cache_key=echo.prompt_cache_key,
        safety_identifier=echo.safety_identifier,
        store=echo.store,
        temperature=_shown(params, "temperature"),
        top_p=_shown(params, "top_p"),
        text=TextConfig(echo.text_format or told.text_format(params)),
        tool_choice=told.tool_choice(params),
        tools=told.tools(params),
        truncation=echo.truncation,
        usage=usage(turn.receipt.tokens) if is_done else None,
        user=echo.user,
        metadata=dict(echo.metadata),
        isthmus=Isthmus(
            turn=turn.name,
            request_id=turn.request_id,
            attempt=turn.attempt,
            receipt=plain(turn.receipt) if is_done else None,
        ),
    )


def _status(turn: turn_pb2.Turn, echo: Echo) -> Status:
    is_open = turn.state == turn_pb2.Turn.STATE_OPEN
    return "queued" if is_open and echo.is_queued else _STATUS.get(turn.state, "in_progress")


def error_of(turn: turn_pb2.Turn) -> ResponseError | None:
    """Why the turn has no answer, if so."""
    if turn.state == turn_pb2.Turn.STATE_EXPIRED:
        return _EXPIRED
    if turn.state != turn_pb2.Turn.STATE_FAILED:
        return None
    return ResponseError(reason_name(turn.error.reason).lower(), turn.error.message)


def usage(tokens: turn_pb2.TokenCounts) -> Usage:
    """OpenAI's counts: the whole window is input, and cached is what the engine itself says it found."""
    return Usage(
        input_tokens=tokens.window_tokens,
        input_tokens_details=InputDetails(tokens.cached_tokens),
        output_tokens=tokens.output_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=tokens.window_tokens + tokens.output_tokens,
    )


def plain(message: Proto) -> dict[str, Any]:
    """A message under its own field names: integers as numbers, enums by name, bytes as hex, unset ones as None."""
    return {each.name: _plain_field(message, each) for each in message.DESCRIPTOR.fields}


def _plain_field(message: Proto, descriptor: Any) -> Any:
    value = getattr(message, descriptor.name)
    if descriptor.is_repeated:
        return [_plain_value(each, descriptor) for each in value]
    if descriptor.has_presence and not message.HasField(descriptor.name):
        return None
    return _plain_value(value, descriptor)


def _plain_value(value: Any, descriptor: Any) -> Any:
    if isinstance(value, Proto):
        return plain(value)
    if isinstance(value, bytes):
        return value.hex()
    if descriptor.enum_type is not None:
        return descriptor.enum_type.values_by_number[value].name
    return value


def _shown(params: message_pb2.SamplingParams, name: Literal["temperature", "top_p"]) -> float | None:
    """As it was sent: the wire's 32 bits would give 0.7 back as 0.699999988."""
    return round(getattr(params, name), 6) if params.HasField(name) else None
