"""From OpenAI's sampling parameters to the contract's, and back for errors. Pure."""

from __future__ import annotations

from isthmus.session.v1 import message_pb2

from gateway.http.chat.shapes import ChatJsonSchemaFormat, CreateChatCompletion
from gateway.http.errors import Refusal
from gateway.http.stops import stops_of
from gateway.http.tools.asked import chat_tool_use, form
from services.errors import FieldViolation, InvalidField, IsthmusError

_SAME = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "ignore_eos")


def sampling(request: CreateChatCompletion) -> message_pb2.SamplingParams:
    """The parameters; InvalidField or Refusal by the name of one that cannot be."""
    params = message_pb2.SamplingParams(
        max_output_tokens=_tokens_max(request),
        min_output_tokens=request.min_tokens,
        stop=stops_of(request.stop),
        logprobs=_logprobs(request),
        structured_output=_form(request),
        tools=chat_tool_use(request.tools, request.tool_choice, request.parallel_tool_calls),
    )
    for name in _SAME:
        value = getattr(request, name)
        if value is not None:
            setattr(params, name, value)
    return params


def told_by_name(request: CreateChatCompletion, error: IsthmusError) -> IsthmusError:
    """The error with the client's name for a parameter in place of the contract's."""
    names = {
        "params.max_output_tokens": "max_tokens" if request.max_tokens is not None else "max_completion_tokens",
        "params.min_output_tokens": "min_tokens",
        "params.structured_output": "response_format",
        "params.tools": "tools",
    }
    field = error.fields[0].field if error.fields else ""
    name = next((theirs for ours, theirs in names.items() if field == ours or field.startswith(f"{ours}.")), "")
    if not name:
        return error
    return IsthmusError(
        error.reason,
        error.message.replace(field, name, 1),
        metadata=error.metadata,
        retry_after_ms=error.retry_after_ms,
        fields=[FieldViolation(name, error.fields[0].description)],
    )


def _tokens_max(request: CreateChatCompletion) -> int | None:
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "max_tokens: excludes max_completion_tokens, which says the same; leave one of them out"
        raise Refusal(400, "mutually_exclusive_parameters", "max_tokens", message)
    return request.max_completion_tokens if request.max_tokens is None else request.max_tokens


def _logprobs(request: CreateChatCompletion) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise InvalidField("top_logprobs", "is set without logprobs; expected logprobs: true with it")
    return None


def _form(request: CreateChatCompletion) -> message_pb2.StructuredOutput | None:
    wanted = request.response_format
    if isinstance(wanted, ChatJsonSchemaFormat):
        return form("response_format.json_schema", wanted.json_schema)
    return form("response_format", wanted)
