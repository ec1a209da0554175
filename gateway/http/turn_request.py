"""From POST /v1/responses to a turn: which session it goes on, what it says, and what is given back of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, session_pb2, session_service_pb2, turn_pb2

from gateway.http import messages
from gateway.http.edge import Edge
from gateway.http.errors import Refusal, naming
from gateway.http.ids import conversation_id, parse_conversation, parse_response, session_of_key
from gateway.http.limits import user_of
from gateway.http.render import Echo
from gateway.http.sessions import Origin, labels_of, labels_with, metadata_of, open_session, origin_of
from gateway.http.shapes import ConversationRef, CreateResponse
from gateway.http.stops import stops_of
from gateway.http.tools.asked import check_outputs, form, tool_use
from gateway.http.tools.echo import format_echo
from gateway.http.tools.latest import latest_turn
from gateway.identity import new_id
from gateway.names import session_name
from gateway.tools.listing import is_listed, listing
from services.errors import IsthmusError

_TRUNCATION = {
    None: session_service_pb2.RunTurnRequest.TRUNCATION_UNSPECIFIED,
    "auto": session_service_pb2.RunTurnRequest.TRUNCATION_UNSPECIFIED,
    "disabled": session_service_pb2.RunTurnRequest.TRUNCATION_DISABLED,
}


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A turn to run.

    `after_turn` is the turn that must be the latest, None where any will do. `param` and `named` are how the client
    named the session, empty for a new one. `erases` says that the session goes with the answer, `is_fresh` that nobody
    else can know the session yet. `labels` replace the session's once the answer is durable, None leaves them.
    """

    session: str
    turn: session_service_pb2.RunTurnRequest
    echo: Echo
    after_turn: int | None = None
    param: str = ""
    named: str = ""
    erases: bool = False
    is_fresh: bool = False
    labels: Mapping[str, str] | None = None
    # Those of the session that begins where a client goes on from an older response.
    branch_labels: Mapping[str, str] | None = None


async def branched(edge: Edge, request: TurnRequest) -> TurnRequest:
    """The same turn in a session of its own that begins as the named one was after an older response.

    A retry under its idempotency key finds the one that it has made.
    """
    key = request.turn.request_id
    fork = session_of_key(edge.tenant, f"{request.named} {key}") if key else new_id(os.urandom, "r")
    own = session_pb2.Session(labels=request.branch_labels or {})
    try:
        await edge.backend.fork_session(edge.tenant, request.session, fork, turn=request.after_turn or 0, session=own)
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS or not key:
            raise
    turn = session_service_pb2.RunTurnRequest()
    turn.CopyFrom(request.turn)
    turn.session = session_name(fork)
    # It is no part of the conversation that it came from.
    echo = replace(request.echo, conversation=None)
    return replace(request, session=fork, turn=turn, echo=echo, is_fresh=not key, labels=None, branch_labels=None)


async def turn_request(edge: Edge, body: CreateResponse, idempotency_key: str) -> TurnRequest:
    """Checks the body and finds or makes the session; InvalidField, Refusal or NOT_FOUND by the parameter's name."""
    turn = session_service_pb2.RunTurnRequest(
        request_id=idempotency_key,
        messages=messages.turn_messages(body),
        params=await _checked_params(body),
        model=body.model,
        user=user_of(body.user, body.safety_identifier),
        truncation=_TRUNCATION[body.truncation],
        hop_detail=session_service_pb2.RunTurnRequest.HOP_DETAIL_RECEIPT,
    )
    metadata = messages.labels(body.metadata)
    if body.conversation is not None and body.previous_response_id is not None:
        message = "previous_response_id: excludes conversation; a conversation goes on from its latest turn by itself"
        raise Refusal(400, "mutually_exclusive_parameters", "previous_response_id", message)
    if body.conversation is not None:
        return await _in_conversation(edge, body, body.conversation, turn)
    if body.previous_response_id is not None:
        return await _after(edge, body, body.previous_response_id, turn, metadata)
    return await _first(edge, body, turn, metadata)


async def _first(
    edge: Edge, body: CreateResponse, turn: session_service_pb2.RunTurnRequest, metadata: dict[str, str]
) -> TurnRequest:
    """A session of its own. Its id comes from the idempotency key if there is one, so that a retry finds it again."""
    key = turn.request_id
    check_outputs(turn.messages, "input")
    _tell(turn, body, None)
    session = session_of_key(edge.tenant, key) if key else new_id(os.urandom, "r")
    await open_session(edge, session, labels_of(metadata, Origin.RESPONSES), may_exist=bool(key))
    turn.session = session_name(session)
    echo = _echo(body, metadata)
    return TurnRequest(session, turn, echo, erases=not echo.store, is_fresh=not key)


async def _after(
    edge: Edge,
    body: CreateResponse,
    previous: str,
    turn: session_service_pb2.RunTurnRequest,
    metadata: dict[str, str],
) -> TurnRequest:
    name = parse_response(previous, "previous_response_id")
    if body.store is False:
        message = "store: false would erase the session that previous_response_id goes on with; leave one of them out"
        raise Refusal(400, "unsupported_parameter", "store", message)
    with naming("previous_response_id", previous):
        session = await edge.backend.get_session(edge.tenant, name.session)
    in_conversation = origin_of(session) is not Origin.RESPONSES
    if in_conversation and metadata:
        raise _no_metadata()
    turn.session = session_name(name.session)
    if turn.params.HasField("tools"):
        with naming("previous_response_id", previous):
            _tell(turn, body, await edge.backend.get_turn(edge.tenant, name.session, name.turn))
    echo = _echo(
        body,
        metadata or ({} if in_conversation else metadata_of(session)),
        previous=previous,
        conversation=conversation_id(name.session) if in_conversation else None,
    )
    return TurnRequest(
        name.session,
        turn,
        echo,
        name.turn,
        "previous_response_id",
        previous,
        labels=labels_with(session, metadata) if metadata else None,
        branch_labels=labels_of(echo.metadata, Origin.RESPONSES),
    )


async def _in_conversation(
    edge: Edge, body: CreateResponse, conversation: str | ConversationRef, turn: session_service_pb2.RunTurnRequest
) -> TurnRequest:
    named = conversation if isinstance(conversation, str) else conversation.id
    session = parse_conversation(named, "conversation")
    if body.metadata:
        raise _no_metadata()
    turn.session = session_name(session)
    if turn.params.HasField("tools"):
        with naming("conversation", named):
            _tell(turn, body, await latest_turn(edge, session, turn.request_id))
    return TurnRequest(session, turn, _echo(body, {}, conversation=named), param="conversation", named=named)


def _tell(turn: session_service_pb2.RunTurnRequest, body: CreateResponse, before: turn_pb2.Turn | None) -> None:
    """Has the turn tell of its functions, unless the turn before it had the same."""
    if turn.params.HasField("tools") and not is_listed(turn.params.tools, before):
        told = messages.turn_messages(body, [listing(turn.params.tools)])
        del turn.messages[:]
        turn.messages.extend(told)


def _no_metadata() -> Refusal:
    message = "metadata: of a response inside a conversation is not kept; set it on the conversation"
    return Refusal(400, "unsupported_parameter", "metadata", message)


async def _checked_params(body: CreateResponse) -> message_pb2.SamplingParams:
    """A schema takes its time to check: what other turns say goes out meanwhile."""
    return await asyncio.to_thread(_params, body) if body.tools or body.text is not None else _params(body)


def _params(body: CreateResponse) -> message_pb2.SamplingParams:
    return message_pb2.SamplingParams(
        max_output_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=stops_of(body.stop),
        ignore_eos=body.ignore_eos,
        min_output_tokens=body.min_tokens,
        structured_output=form("text.format", body.text.format) if body.text is not None else None,
        tools=tool_use(body.tools, body.tool_choice, body.parallel_tool_calls),
    )


def _echo(
    body: CreateResponse, metadata: dict[str, str], previous: str | None = None, conversation: str | None = None
) -> Echo:
    return Echo(
        instructions=body.instructions,
        previous_response_id=previous,
        conversation=conversation,
        store=body.store is not False,
        truncation=body.truncation or "auto",
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
        metadata=metadata,
        text_format=format_echo(body.text),
    )
