"""`background: true`: a response that is queued, answered with 202 and its id, and looked at until it is done."""

from __future__ import annotations

from dataclasses import replace

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from gateway.http.edge import Edge
from gateway.http.errors import Refusal, naming
from gateway.http.ids import ResponseId
from gateway.http.objects import Response
from gateway.http.render import Echo, response
from gateway.http.sessions import relabel
from gateway.http.shapes import CreateResponse
from gateway.http.turn_request import TurnRequest, branched
from gateway.jobs.record import JobRecord, JobState
from services.errors import IsthmusError


def check_background(body: CreateResponse) -> None:
    """Refusal of what does not go with `background: true`."""
    if body.background and body.store is False:
        message = "store: false does not go with background: true; what nobody waits for has to be kept: leave it out"
        raise Refusal(400, "unsupported_parameter", "store", message)
    if body.background and body.stream:
        message = "stream: true does not go with background: true yet; ask for the response by its id until it is done"
        raise Refusal(400, "unsupported_parameter", "stream", message)


async def submit(edge: Edge, request: TurnRequest) -> Response:
    """The response, durable and queued; or as it stands, where the same request had come before."""
    asked, accepted = request, False
    try:
        with naming(request.param, request.named):
            try:
                turn, record = await edge.jobs.submit(edge.tenant, asked.turn, after_turn=asked.after_turn)
            except IsthmusError as error:
                # The client goes on from a response after which others came: that makes a session of its own.
                if error.reason != errors_pb2.ERROR_REASON_NOT_LATEST_TURN or asked.branch_labels is None:
                    raise
                asked = await branched(edge, asked)
                turn, record = await edge.jobs.submit(edge.tenant, asked.turn, after_turn=asked.after_turn)
        accepted = True
    finally:
        if asked.is_fresh and not accepted:
            await edge.backend.delete_session(edge.tenant, asked.session)
    if asked.labels is not None:
        await relabel(edge, asked.session, asked.labels)
    name = ResponseId(asked.session, turn.number)
    return response(name, turn, _with(asked.echo, turn, record, is_background=True))


async def background(edge: Edge, name: ResponseId, turn: turn_pb2.Turn, echo: Echo) -> Echo:
    """The echo with what the book of jobs knows of the response."""
    record = await edge.jobs.find(edge.tenant, name.session, name.turn)
    return _with(echo, turn, record, is_background=record is not None)


def _with(echo: Echo, turn: turn_pb2.Turn, record: JobRecord | None, *, is_background: bool) -> Echo:
    is_open = turn.state == turn_pb2.Turn.STATE_OPEN
    is_queued = is_open and record is not None and record.state in (JobState.QUEUED, JobState.WAITING)
    return replace(echo, background=is_background, is_queued=is_queued)
