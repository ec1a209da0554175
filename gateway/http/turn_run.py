"""Runs the turn behind a response, to its end or as a stream of events, and cleans up after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2

from gateway.http.caching import Sourced, headers_of
from gateway.http.echoes import labelled
from gateway.http.edge import Edge
from gateway.http.errors import naming
from gateway.http.objects import Response
from gateway.http.render import response
from gateway.http.sessions import erase, relabel
from gateway.http.telling import Telling, name_of
from gateway.http.turn_request import TurnRequest, branched
from services.errors import FieldViolation, IsthmusError


class TurnRun:
    """One turn, driven once: by `answer` or by `stream`. `received_at` is its first byte's time, by time.monotonic."""

    def __init__(self, edge: Edge, request: TurnRequest, received_at: float) -> None:
        self._edge = edge
        self._request = request
        self._received_at = received_at
        self._is_accepted = False
        self._is_streamed = False
        # Of the answer, once it is there; of a stream with its first event.
        self.headers: dict[str, str] = {}

    async def answer(self) -> Response:
        """The whole response, once it is durable."""
        async with aclosing(self._events()) as events:
            async for event in events:
                if event.HasField("done"):
                    self.headers = headers_of(event.done.turn.receipt)
                    return response(name_of(event.done.turn.name), event.done.turn, self._request.echo)
        raise IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, "the turn ended without an answer")

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The events as they come. What fails before the turn is accepted is raised, what fails later is an event."""
        self._is_streamed = True
        telling = Telling(lambda: self._request.echo, self._request.turn.params)
        sourced = Sourced(self._request.turn, self._edge.settings.caches)
        async with aclosing(telling.told(sourced.events(self._events()))) as events:
            async for event in events:
                self.headers = sourced.headers
                yield event

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
                    edge.tenant,
                    labelled(request.turn, request.echo),
                    after_turn=request.after_turn,
                    received_at=self._received_at,
                    is_streamed=self._is_streamed,
                )
                async with aclosing(turns) as events:
                    async for event in events:
                        self._is_accepted = True
                        if event.HasField("done") and request.labels is not None:
                            await relabel(edge, request.session, request.labels)
                        yield event
        finally:
            if request.erases or (request.is_fresh and not self._is_accepted):
                await erase(edge, request.session)

    def _is_older(self, error: IsthmusError) -> bool:
        """Whether the client goes on from a response after which others came: that makes a session of its own."""
        is_older = error.reason == errors_pb2.ERROR_REASON_NOT_LATEST_TURN
        return is_older and not self._is_accepted and self._request.branch_labels is not None

    def _told_by_name(self, error: IsthmusError) -> IsthmusError:
        if error.reason != errors_pb2.ERROR_REASON_NOT_LATEST_TURN:
            return error
        return IsthmusError(
            error.reason,
            f"previous_response_id: {self._request.named} is no response that was completed; expected one that was",
            fields=[FieldViolation("previous_response_id", "is no response that was completed")],
        )
