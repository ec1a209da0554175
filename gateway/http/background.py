"""`background: true`: a response that is queued, answered with 202 and its id, and looked at until it is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from gateway.http.echoes import labelled
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


@dataclass(frozen=True, slots=True)
class Submitted:
    """A response that is in the queue, or that was there already; `echo` is what its events give back."""

    turn: turn_pb2.Turn
    echo: Echo
    response: Response


async def submit(edge: Edge, request: TurnRequest) -> Submitted:
    """The response, durable and queued; or as it stands, where the same request had come before."""
    asked, accepted = request, False
    try:
        with naming(request.param, request.named):
            try:
                turn, record = await _submit(edge, asked)
            except IsthmusError as error:
                # The client goes on from a response after which others came: that makes a session of its own.
                if error.reason != errors_pb2.ERROR_REASON_NOT_LATEST_TURN or asked.branch_labels is None:
                    raise
                asked = await branched(edge, asked)
                turn, record = await _submit(edge, asked)
        accepted = True
    finally:
        if asked.is_fresh and not accepted:
            await edge.backend.delete_session(edge.tenant, asked.session)
    if asked.labels is not None:
        await relabel(edge, asked.session, asked.labels)
    name = ResponseId(asked.session, turn.number)
    echo = replace(asked.echo, background=True)
    return Submitted(turn, echo, response(name, turn, _with(echo, turn, record)))


async def background(edge: Edge, name: ResponseId, turn: turn_pb2.Turn, echo: Echo) -> Echo:
    """The echo with what the book of jobs knows of the response."""
    record = await edge.jobs.find(edge.tenant, name.session, name.turn)
    return _with(echo, turn, record)


async def _submit(edge: Edge, asked: TurnRequest) -> tuple[turn_pb2.Turn, JobRecord | None]:
    turn = labelled(asked.turn, replace(asked.echo, background=True))
    return await edge.jobs.submit(edge.tenant, turn, after_turn=asked.after_turn)


def _with(echo: Echo, turn: turn_pb2.Turn, record: JobRecord | None) -> Echo:
    is_open = turn.state == turn_pb2.Turn.STATE_OPEN
    is_queued = is_open and record is not None and record.state in (JobState.QUEUED, JobState.WAITING)
    return replace(echo, background=echo.background or record is not None, is_queued=is_queued)
