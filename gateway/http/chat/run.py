"""Runs the turn behind a chat completion, to its end or as a stream of chunks, and cleans up after it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, session_service_pb2

from gateway.http.caching import Sourced, headers_of
from gateway.http.chat import bookmarks
from gateway.http.chat.chunks import ChatChunks, completion
from gateway.http.chat.history import History
from gateway.http.chat.objects import ChatCompletion
from gateway.http.chat.params import told_by_name
from gateway.http.chat.recall import Place, Recall
from gateway.http.chat.shapes import CreateChatCompletion
from gateway.http.edge import Edge
from gateway.http.errors import problem_of
from gateway.http.ids import ResponseId
from gateway.http.limits import user_of
from gateway.http.sessions import erase, relabel
from gateway.http.tools.items import tools_of
from gateway.names import parse_turn, session_name
from services.errors import IsthmusError

Event = session_service_pb2.RunTurnResponse
# The session has come to another turn, or is at one: the same beginning goes on in a session of its own.
_ELSEWHERE: Final = frozenset({errors_pb2.ERROR_REASON_NOT_LATEST_TURN, errors_pb2.ERROR_REASON_TURN_IN_PROGRESS})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A completion that was asked for. `key` is its Idempotency-Key, empty for none."""

    body: CreateChatCompletion
    params: message_pb2.SamplingParams
    history: History
    metadata: dict[str, str] | None
    key: str
    cache: session_service_pb2.CachePolicy | None = None

    @property
    def erases(self) -> bool:
        """Whether the context goes with the answer."""
        return self.body.store is False


class ChatRun:
    """One completion, driven once: by `answer` or by `stream`. `received_at` is as in TurnRun."""

    def __init__(self, edge: Edge, request: ChatRequest, received_at: float) -> None:
        self._edge = edge
        self._request = request
        self._received_at = received_at
        self._params = request.params
        self._tools = tools_of(request.params)
        self._recall = Recall(edge, request.history, request.metadata, request.key, self._tools)
        self._user = user_of(request.body.user, request.body.safety_identifier)
        # Of the answer, once it is there; of a stream with its first event.
        self.headers: dict[str, str] = {}

    async def answer(self) -> ChatCompletion:
        """The whole completion, once it is durable."""
        logprobs: list[message_pb2.TokenLogprob] = []
        async with aclosing(self._events()) as events:
            async for event in events:
                logprobs += event.delta.logprobs
                if event.HasField("done"):
                    self.headers = headers_of(event.done.turn.receipt)
                    return completion(_name(event.done.turn.name), event.done.turn, logprobs)
        raise IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, "the turn ended without an answer")

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The chunks as they come. What fails before the turn is accepted is raised, what fails later is a chunk."""
        told: ChatChunks | None = None
        options = self._request.body.stream_options
        asked = session_service_pb2.RunTurnRequest(
            model=self._request.body.model, params=self._params, cache=self._request.cache
        )
        sourced = Sourced(asked, self._edge.settings.caches)
        try:
            async with aclosing(sourced.events(self._events())) as events:
                async for event in events:
                    self.headers = sourced.headers
                    if event.HasField("accepted"):
                        name, model = _name(event.accepted.turn), self._request.body.model
                        with_usage = bool(options and options.include_usage)
                        told = ChatChunks(name, int(time.time()), model, with_usage, self._tools)
                    for chunk in _told(told, event):
                        yield chunk
        except Exception as error:
            if told is None:
                raise
            if not isinstance(error, IsthmusError):
                _log.error("http_stream_failed", exc_info=error)
            for chunk in told.failed(problem_of(error, "POST", "/v1/chat/completions")):
                yield chunk

    async def _events(self) -> AsyncGenerator[Event, None]:
        """The driver's events; errors name the client's own parameters."""
        try:
            place = await (self._recall.new() if self._request.erases else self._recall.place())
            is_accepted = False
            try:
                async with aclosing(self._driven(place)) as events:
                    async for event in events:
                        is_accepted = True
                        yield event
                return
            except IsthmusError as error:
                if is_accepted or place.before is None or error.reason not in _ELSEWHERE:
                    raise
            place = await self._recall.elsewhere(place)
            async with aclosing(self._driven(place)) as events:
                async for event in events:
                    yield event
        except IsthmusError as error:
            raise told_by_name(self._request.body, error) from error

    async def _driven(self, place: Place) -> AsyncGenerator[Event, None]:
        edge, is_done = self._edge, False
        try:
            await self._fill(place)
            turns = edge.turns.run(
                edge.tenant,
                self._turn(place),
                after_turn=place.before.turn.turn if place.before else None,
                received_at=self._received_at,
            )
            async with aclosing(turns) as events:
                async for event in events:
                    if event.HasField("done"):
                        is_done = True
                        await self._settle(place, event.done)
                    yield event
        finally:
            if self._request.erases or (place.is_fresh and not is_done):
                await erase(edge, place.session)

    async def _fill(self, place: Place) -> None:
        """What is too much for the turn to bring along is in the session before it; each part once, however often."""
        for index, batch in enumerate(place.batches[:-1]):
            request_id = f"{place.session}:{index}"
            await self._edge.backend.append_messages(self._edge.tenant, place.session, batch, request_id=request_id)

    def _turn(self, place: Place) -> session_service_pb2.RunTurnRequest:
        return session_service_pb2.RunTurnRequest(
            session=session_name(place.session),
            request_id=self._request.key,
            messages=place.batches[-1],
            params=self._params,
            model=self._request.body.model,
            user=self._user,
            cache=self._request.cache,
            hop_detail=session_service_pb2.RunTurnRequest.HOP_DETAIL_RECEIPT,
        )

    async def _settle(self, place: Place, done: Event.Done) -> None:
        """The session is as it should be, and found by the next request, before this one has its answer."""
        if place.labels is not None:
            await relabel(self._edge, place.session, place.labels)
        if done.turn.output_text and not self._request.erases:
            reply = done.turn.output_text
            said = sum(len(message.text.encode()) for batch in place.batches for message in batch)
            text_bytes = place.text_bytes + said + len(reply.encode())
            state = self._request.history.after(reply, self._tools)
            await bookmarks.put(self._edge, state, ResponseId(place.session, done.turn.number), text_bytes)


def _told(told: ChatChunks | None, event: Event) -> list[bytes]:
    if told is None:
        return []
    if event.HasField("accepted"):
        return list(told.begun())
    if event.HasField("delta"):
        return list(told.delta(event.delta.text, event.delta.logprobs))
    return list(told.done(event.done.turn)) if event.HasField("done") else []


def _name(turn: str) -> str:
    name = parse_turn(turn)
    return f"chatcmpl-{name.session}_{name.number}"
