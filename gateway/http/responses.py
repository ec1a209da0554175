"""`/v1/responses`: a turn of a session as OpenAI's Response.

Who sends no `previous_response_id` and no `conversation` gets a session of its own. The header `Idempotency-Key` makes
a response take effect once, however often it is sent. With `Isthmus-On-Disconnect: continue` it goes on when its caller
leaves; it is read on by `GET …?stream=true&starting_after=N`, or with the `Last-Event-ID` that an EventSource sends.
"""

from __future__ import annotations

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2, turn_pb2
from isthmus.session.v1.session_service_pb2 import CachePolicy
from litestar import Response as Answer
from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from gateway.http.background import background, check_background, submit
from gateway.http.body import BoundedRequest
from gateway.http.caching import policy_of
from gateway.http.connection import EventStream, while_connected
from gateway.http.echoes import echo_of
from gateway.http.edge import Edge, GivenEdge
from gateway.http.errors import ERRORS, Refusal, missing, naming
from gateway.http.ids import ResponseId, conversation_id, parse_response
from gateway.http.listing import PageQuery, Span, list_items, page
from gateway.http.objects import Deleted, ItemList, Response
from gateway.http.query import LIMIT_DEFAULT, After, Limit, Ordered, StartingAfter
from gateway.http.render import Echo, response
from gateway.http.sessions import Origin, metadata_of, origin_of
from gateway.http.shapes import CreateResponse
from gateway.http.telling import attached
from gateway.http.turn_request import turn_request
from gateway.http.turn_run import TurnRun
from gateway.tools.listing import tells_functions
from services.errors import InvalidField, IsthmusError

KEY_BYTES_MAX = 128
EVENT_DIGITS_MAX = 9
# More than a list of functions is cut into.
LISTING_PIECES_COUNT_MAX = 128
ON_DISCONNECT = {"stop": turn_pb2.ON_DISCONNECT_STOP, "continue": turn_pb2.ON_DISCONNECT_CONTINUE}


@post("/v1/responses", responses=ERRORS, status_code=200)
async def create_response(data: JSONBody[CreateResponse], request: BoundedRequest, edge: GivenEdge) -> Answer[Response]:
    """Runs a turn and answers with it, whole or as server-sent events; or, in the background, with 202 at once."""
    check_background(data)
    asked = await turn_request(edge, data, idempotency_key(request))
    asked.turn.cache.MergeFrom(policy_of(request) or CachePolicy())
    if data.background:
        submitted = await submit(edge, asked)
        if data.stream:
            return EventStream(attached(edge, submitted.turn, submitted.echo, request.state.received_at))
        return Answer(submitted.response, status_code=202)
    asked.turn.on_disconnect = on_disconnect(request)
    run = TurnRun(edge, asked, request.state.received_at)
    if data.stream:
        return EventStream(run.stream(), lambda: run.headers)
    return Answer(await while_connected(request.receive, run.answer()), headers=run.headers)


@get("/v1/responses/{response_id:str}", responses=ERRORS)
async def get_response(
    response_id: FromPath[str],
    request: BoundedRequest,
    edge: GivenEdge,
    stream: FromQuery[bool] = False,
    starting_after: StartingAfter = None,
) -> Answer[Response]:
    """The turn as it stands; or its events, from any of them on, whether it is in progress or done."""
    name, turn, session = await _read(edge, response_id)
    echo = await background(edge, name, turn, await _echo(edge, name, turn, session))
    if not stream:
        if starting_after is not None:
            raise Refusal(400, "unsupported_parameter", "starting_after", "starting_after: needs stream=true")
        return Answer(response(name, turn, echo))
    last = last_event(request, starting_after)
    return EventStream(attached(edge, turn, echo, request.state.received_at, last))


@delete("/v1/responses/{response_id:str}", responses=ERRORS, status_code=200)
async def delete_response(response_id: FromPath[str], edge: GivenEdge) -> Deleted:
    """Erases the turn's texts; with them the whole session if it was made for this one response."""
    name, turn, session = await _read(edge, response_id)
    if turn.state == turn_pb2.Turn.STATE_OPEN:
        message = f"{response_id} is in progress; cancel it first, or wait for its end"
        raise IsthmusError(errors_pb2.ERROR_REASON_TURN_IN_PROGRESS, message)
    await edge.jobs.forget(edge.tenant, name.session, name.turn)
    if session.turn_count == 1 and origin_of(session) is Origin.RESPONSES:
        await edge.backend.delete_session(edge.tenant, name.session)
    else:
        for sequence in _sequences(turn, await _own_first(edge, name, turn)):
            await edge.backend.delete_fragment(edge.tenant, name.session, sequence)
    return Deleted(response_id, "response.deleted")


@post("/v1/responses/{response_id:str}/cancel", responses=ERRORS, status_code=200)
async def cancel_response(response_id: FromPath[str], edge: GivenEdge) -> Response:
    """Stops a response that is in progress."""
    name, _, session = await _read(edge, response_id)
    turn = await edge.jobs.cancel(edge.tenant, name.session, name.turn)
    return response(name, turn, await background(edge, name, turn, await _echo(edge, name, turn, session)))


@get("/v1/responses/{response_id:str}/input_items", responses=ERRORS)
async def list_input_items(
    response_id: FromPath[str],
    edge: GivenEdge,
    limit: Limit = LIMIT_DEFAULT,
    order: Ordered = "desc",
    after: After = None,
) -> ItemList:
    """What the client said in this turn, instructions included."""
    name, turn, _ = await _read(edge, response_id)
    if not turn.first_input_sequence:
        return page([])
    span = Span(turn.first_input_sequence, turn.last_input_sequence)
    return await list_items(edge, name.session, PageQuery(limit, order, after), span)


def idempotency_key(request: BoundedRequest) -> str:
    """The header, empty if it is not there."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return ""
    if not 1 <= len(key.encode()) <= KEY_BYTES_MAX:
        raise InvalidField("Idempotency-Key", f"is {len(key.encode())} bytes long, expected 1 to {KEY_BYTES_MAX}")
    return key


async def _read(edge: Edge, response_id: str) -> tuple[ResponseId, turn_pb2.Turn, session_pb2.Session]:
    """The turn and its session; NOT_FOUND by the response's id, also for an answered one whose texts are erased."""
    name = parse_response(response_id, "response_id")
    with naming("response_id", response_id):
        session = await edge.backend.get_session(edge.tenant, name.session)
        turn = await edge.backend.get_turn(edge.tenant, name.session, name.turn)
    if await _is_erased(edge, name, turn):
        raise missing("response_id", response_id)
    return name, turn, session


async def _is_erased(edge: Edge, name: ResponseId, turn: turn_pb2.Turn) -> bool:
    if turn.output_text or turn.state != turn_pb2.Turn.STATE_DONE:
        return False
    found = await edge.backend.list_fragments(
        edge.tenant, name.session, page_size=1, start_sequence=await _own_first(edge, name, turn)
    )
    # What is erased is in no list, and neither is what came to nothing: the first one there may be of a later turn.
    return not any(fragment.sequence <= turn.last_input_sequence for fragment in found.fragments)


def on_disconnect(request: BoundedRequest) -> turn_pb2.OnDisconnect.ValueType:
    """The header `Isthmus-On-Disconnect`: what becomes of the turn if its caller leaves before it is done."""
    chosen = request.headers.get("isthmus-on-disconnect", "stop")
    if chosen not in ON_DISCONNECT:
        raise InvalidField("Isthmus-On-Disconnect", f"is {chosen[:64]!r}, expected one of {', '.join(ON_DISCONNECT)}")
    return ON_DISCONNECT[chosen]


def last_event(request: BoundedRequest, starting_after: int | None) -> int:
    """The number of the last event that the client has, -1 for none: as it says, or as its EventSource does."""
    if starting_after is not None:
        return starting_after
    last = request.headers.get("last-event-id", "")
    if not last:
        return -1
    if not last.isascii() or not last.isdigit() or len(last) > EVENT_DIGITS_MAX:
        raise InvalidField("Last-Event-ID", "is no number of an event, expected the id of the last one that was read")
    return int(last)


async def _echo(edge: Edge, name: ResponseId, turn: turn_pb2.Turn, session: session_pb2.Session) -> Echo:
    kept = echo_of(turn)
    if kept is not None:
        return kept
    if origin_of(session) is Origin.CONVERSATIONS:
        return Echo(conversation=conversation_id(name.session))
    return Echo(previous_response_id=await _previous(edge, name, session), metadata=metadata_of(session))


async def _previous(edge: Edge, name: ResponseId, session: session_pb2.Session) -> str | None:
    """The response that this one goes on from: in a branch, the one that the client named."""
    if name.turn == 1:
        return None
    is_shared = bool(session.parent) and name.turn - 1 <= session.parent_turn
    before = ResponseId(session.parent.removeprefix("sessions/") if is_shared else name.session, name.turn - 1)
    try:
        turn = await edge.backend.get_turn(edge.tenant, before.session, before.turn)
    except IsthmusError as error:
        # The session that it was in is erased.
        if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
            raise
        return None
    return str(before) if turn.state == turn_pb2.Turn.STATE_DONE else None


async def _own_first(edge: Edge, name: ResponseId, turn: turn_pb2.Turn) -> int:
    """Where that begins which the client said itself: a list of functions before it goes on for later turns."""
    first = turn.first_input_sequence
    if not turn.params.HasField("tools"):
        return first
    found = await edge.backend.list_fragments(
        edge.tenant, name.session, page_size=LISTING_PIECES_COUNT_MAX, start_sequence=first
    )
    head = next(iter(found.fragments), None)
    if head is None or head.sequence != first or not tells_functions(head):
        return first
    return next((each.sequence for each in found.fragments if each.sequence > first and not each.part), first)


def _sequences(turn: turn_pb2.Turn, first_input: int) -> list[int]:
    ranges = [
        (first_input, turn.last_input_sequence),
        (turn.first_output_sequence, turn.last_output_sequence),
    ]
    return [sequence for first, last in ranges if first for sequence in range(first, last + 1)]
