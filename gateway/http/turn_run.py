"""Runs the turn behind a response, to its end or as a stream of events, and cleans up after it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.http.caching import headers_of
from gateway.http.edge import Edge
from gateway.http.errors import naming, problem_of
from gateway.http.events import Event, ResponseEvents, encode
from gateway.http.ids import ResponseId
from gateway.http.objects import Response, ResponseError
from gateway.http.render import response
from gateway.http.sessions import relabel
from gateway.http.turn_request import TurnRequest, branched
from gateway.names import parse_turn
from services.errors import FieldViolation, IsthmusError

_log = structlog.get_logger(__name__)


class TurnRun:
    """One turn, driven once: by `answer` or by `stream`. `received_at` is its first byte's time, by time.monotonic."""

    def __init__(self, edge: Edge, request: TurnRequest, received_at: float) -> None:
        self._edge = edge
        self._request = request
        self._received_at = received_at
        self._is_accepted = False
        # Of the answer, once it is there.
        self.headers: dict[str, str] = {}

    async def answer(self) -> Response:
        """The whole response, once it is durable."""
        async with aclosing(self._events()) as events:
            async for event in events:
                if event.HasField("done"):
                    self.headers = headers_of(event.done.turn.receipt)
                    return self._render(event.done.turn)
        raise IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, "the turn ended without an answer")

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The events as they come. What fails before the turn is accepted is raised, what fails later is an event."""
        told: ResponseEvents | None = None
        begun: Response | None = None
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    if event.HasField("accepted"):
                        begun = self._begun(event.accepted)
                        told = ResponseEvents(self._name(event.accepted.turn))
                        for each in told.begun(begun):
                            yield encode(each)
                    elif told is not None:
                        for each in self._told(told, event):
                            yield encode(each)
        except Exception as error:
            if told is None or begun is None:
                raise
            for each in told.failed(begun, self._failure(error)):
                yield encode(each)

    async def _events(self) -> AsyncGenerator[session_service_pb2.RunTurnResponse, None]:
        """The driver's events; the session is as it should be before the last one is told."""
        try:
            async with aclosing(self._driven()) as events:
                async for event in events:
                    yield event
        except IsthmusError as error:
            if not self._is_older(error):
                raise
        else:
            return
        self._request = await branched(self._edge, self._request)
        try:
            async with aclosing(self._driven()) as events:
                async for event in events:
                    yield event
        except IsthmusError as error:
            raise self._told_by_name(error) from error

    async def _driven(self) -> AsyncGenerator[session_service_pb2.RunTurnResponse, None]:
        request, edge = self._request, self._edge
        try:
            with naming(request.param, request.named):
                turns = edge.turns.run(
                    edge.tenant, request.turn, after_turn=request.after_turn, received_at=self._received_at
                )
                async with aclosing(turns) as events:
                    async for event in events:
                        self._is_accepted = True
                        if event.HasField("done") and request.labels is not None:
                            await relabel(edge, request.session, request.labels)
                        yield event
        finally:
            if request.erases or (request.is_fresh and not self._is_accepted):
                await self._erase()

    def _is_older(self, error: IsthmusError) -> bool:
        """Whether the client goes on from a response after which others came: that makes a session of its own."""
        is_older = error.reason == errors_pb2.ERROR_REASON_NOT_LATEST_TURN
        return is_older and not self._is_accepted and self._request.branch_labels is not None

    async def _erase(self) -> None:
        """Nothing else is to be done about a session that stays: its answer is out, and nobody has its id."""
        try:
            await self._edge.backend.delete_session(self._edge.tenant, self._request.session)
        except IsthmusError as error:
            _log.warning("session_not_erased", session=self._request.session, error=str(error))

    def _told(self, told: ResponseEvents, event: session_service_pb2.RunTurnResponse) -> list[Event]:
        if event.HasField("delta"):
            return list(told.delta(event.delta.text))
        if event.HasField("done"):
            turn = event.done.turn
            return list(told.done(self._render(turn), turn.output_text))
        return []

    def _begun(self, accepted: session_service_pb2.RunTurnResponse.Accepted) -> Response:
        request = self._request.turn
        turn = turn_pb2.Turn(
            name=accepted.turn,
            number=parse_turn(accepted.turn).number,
            state=turn_pb2.Turn.STATE_OPEN,
            request_id=accepted.request_id,
            attempt=accepted.attempt,
            params=request.params,
            model=request.model,
        )
        turn.create_time.FromSeconds(int(time.time()))
        return self._render(turn)

    def _render(self, turn: turn_pb2.Turn) -> Response:
        return response(self._name(turn.name), turn, self._request.echo)

    def _name(self, turn: str) -> ResponseId:
        return ResponseId(self._request.session, parse_turn(turn).number)

    def _failure(self, error: Exception) -> ResponseError:
        if not isinstance(error, IsthmusError):
            _log.error("http_stream_failed", session=self._request.session, exc_info=error)
        problem = problem_of(error, "POST", "/v1/responses")
        return ResponseError(problem.code, problem.message)

    def _told_by_name(self, error: IsthmusError) -> IsthmusError:
        if error.reason != errors_pb2.ERROR_REASON_NOT_LATEST_TURN:
            return error
        return IsthmusError(
            error.reason,
            f"previous_response_id: {self._request.named} is no response that was completed; expected one that was",
            fields=[FieldViolation("previous_response_id", "is no response that was completed")],
        )
