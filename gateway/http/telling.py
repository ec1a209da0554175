"""A turn told as a response: the same bytes for whoever reads it, at whatever gateway and from whatever place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from gateway.http.errors import problem_of
from gateway.http.events import Event, ResponseEvents, encode
from gateway.http.ids import ResponseId
from gateway.http.objects import Response, ResponseError
from gateway.http.render import Echo, response
from gateway.names import parse_turn
from services.errors import IsthmusError

TurnEvent: TypeAlias = session_service_pb2.RunTurnResponse
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Telling:
    """How a turn is told: what its response gives back of its request, and the last event that its reader has.

    Events are numbered in the order of what the turn has said. So who goes on is told the turn from its beginning, and
    given what he does not have.
    """

    echo: Callable[[], Echo]
    params: message_pb2.SamplingParams
    starting_after: int = -1

    async def told(self, turn: AsyncGenerator[TurnEvent, None]) -> AsyncGenerator[bytes, None]:
        """Server-sent events. What fails before the turn is accepted is raised, what fails later is an event."""
        told: ResponseEvents | None = None
        begun: Response | None = None
        try:
            async with aclosing(turn) as events:
                async for event in events:
                    if event.HasField("accepted"):
                        begun = self._begun(event.accepted)
                        told = ResponseEvents(name_of(event.accepted.turn))
                        new: Iterable[Event] = told.begun(begun)
                    elif told is not None:
                        new = self._told(told, event)
                    for each in self._missing(new):
                        yield each
        except Exception as error:
            if told is None or begun is None:
                raise
            for each in self._missing(told.failed(begun, _failure(error, begun.id))):
                yield each

    def render(self, turn: turn_pb2.Turn) -> Response:
        """The turn as it stands."""
        return response(name_of(turn.name), turn, self.echo())

    def _missing(self, events: Iterable[Event]) -> Iterable[bytes]:
        return [encode(each) for each in events if each["sequence_number"] > self.starting_after]

    def _told(self, told: ResponseEvents, event: TurnEvent) -> Iterable[Event]:
        if event.HasField("delta"):
            return told.delta(event.delta.text)
        if event.HasField("done"):
            return told.done(self.render(event.done.turn), event.done.turn.output_text)
        return ()

    def _begun(self, accepted: TurnEvent.Accepted) -> Response:
        """The turn as it was when it was opened, whoever drives it by now."""
        turn = turn_pb2.Turn(
            name=accepted.turn,
            state=turn_pb2.Turn.STATE_OPEN,
            request_id=accepted.request_id,
            create_time=accepted.create_time,
            attempt=1,
            params=self.params,
            model=accepted.model,
        )
        return self.render(turn)


def name_of(turn: str) -> ResponseId:
    """The response of a turn."""
    name = parse_turn(turn)
    return ResponseId(name.session, name.number)


def _failure(error: Exception, response_id: str) -> ResponseError:
    if not isinstance(error, IsthmusError):
        _log.error("http_stream_failed", response=response_id, exc_info=error)
    problem = problem_of(error, "POST", "/v1/responses")
    return ResponseError(problem.code, problem.message)
