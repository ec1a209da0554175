"""Whether a turn's window and reply are what the caller asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from gateway.schemas import misfit
from gateway.tools.calls import Call, split
from gateway.turn.calls import Reply
from services.errors import IsthmusError

_DISABLED = session_service_pb2.RunTurnRequest.TRUNCATION_DISABLED


def check_window(request: session_service_pb2.RunTurnRequest, report: turn_pb2.WindowReport) -> None:
    """WINDOW_OVERFLOW if the caller wants all of the session in the window, word for word, and it is not."""
    if request.truncation != _DISABLED:
        return
    if report.summary_count or report.left_out or report.left_out_more:
        raise IsthmusError(
            errors_pb2.ERROR_REASON_WINDOW_OVERFLOW,
            "truncation: is disabled, and the session is longer than the model's window: "
            f"{report.left_out_tokens} tokens would be left out and {report.summary_count} summaries stand for others; "
            'expected a shorter session, or truncation: "auto"',
        )


@dataclass(frozen=True, slots=True)
class Misfit:
    """What a reply is not that it was asked to be. `kind` is `schema`, `arguments` or `no_call`."""

    kind: str
    message: str

    def error(self) -> IsthmusError:
        """As its caller gets it."""
        message = f"{self.message}; the same request may be sent again"
        return IsthmusError(errors_pb2.ERROR_REASON_OUTPUT_INVALID, message)


def has_form(params: message_pb2.SamplingParams) -> bool:
    """Whether there is anything to check of a reply."""
    return params.HasField("structured_output") or params.HasField("tools")


def misfit_of(params: message_pb2.SamplingParams, reply: Reply) -> Misfit | None:
    """Where a reply that ended by itself has not its form; one that was cut is what it is.

    Calls are checked where their function is strict. What is called has no other form.
    """
    if reply.finish_reason != turn_pb2.FINISH_REASON_STOP:
        return None
    tools = params.tools if params.HasField("tools") else None
    calls = [part for part in split(reply.text, tools) if isinstance(part, Call)]
    strict = {function.name: function.parameters for function in params.tools.functions if function.strict}
    for call in calls:
        said = misfit(call.arguments, strict[call.name]) if strict.get(call.name) else ""
        if said:
            return Misfit("arguments", f"the arguments of {call.name} do not fit its schema: {said}")
    if calls:
        return None
    if params.tools.choice == message_pb2.ToolUse.CHOICE_REQUIRED:
        return Misfit("no_call", "the reply calls no function: one was required")
    if params.structured_output.HasField("json_schema"):
        said = misfit(reply.text, params.structured_output.json_schema)
        if said:
            return Misfit("schema", f"the reply does not fit its schema: {said}")
    return None


def check_reply(params: message_pb2.SamplingParams, reply: Reply) -> None:
    """OUTPUT_INVALID where `misfit_of` finds something."""
    found = misfit_of(params, reply)
    if found is not None:
        raise found.error()
