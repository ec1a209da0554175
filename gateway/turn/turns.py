"""Runs turns: opens each at its shard, drives it, or attaches to the call that does; request_id makes it once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import structlog
from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.background import Background
from gateway.bounds import check_messages
from gateway.caches.caches import Caches
from gateway.identity import new_id, turn_digest
from gateway.metrics import TurnMetrics
from gateway.models.replicas import Replicas
from gateway.names import parse_session
from gateway.retry import retrying
from gateway.shards import Shards
from gateway.turn.budget import ModelLimits, divide
from gateway.turn.calls import CALLER_GONE, Errand, TurnCalls, lease_of
from gateway.turn.drive import Drive, Event, accepted
from gateway.turn.driven import DrivenTurns
from gateway.turn.receipt import Leg
from gateway.validation.serving import Checks
from services.config import GatewaySettings
from services.errors import IsthmusError, reason_name
from services.rpc.deadlines import remaining_s

Opened = context_service_pb2.OpenTurnResponse
_DRIVES: Final = (Opened.OUTCOME_OPENED, Opened.OUTCOME_TAKEN_OVER)


class TurnDriver:
    """Drives turns for the edges, at most `gateway.turns_count_max` at once."""

    def __init__(
        self,
        shards: Shards,
        replicas: Replicas,
        driven: DrivenTurns,
        settings: GatewaySettings,
        caches: Caches,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._shards = shards
        self._replicas = replicas
        self._driven = driven
        self._settings = settings
        self._caches = caches
        self._checks = Checks(settings.validation)
        self._random_bytes = random_bytes
        self.metrics = TurnMetrics()
        self._background = Background()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(
        self,
        tenant: str,
        request: session_service_pb2.RunTurnRequest,
        *,
        after_turn: int | None = None,
        received_at: float,
    ) -> AsyncGenerator[session_service_pb2.RunTurnResponse, None]:
        """The turn's events: one `accepted`, `hop`s and `delta`s as they come, one `done`; or an IsthmusError raised.

        An async generator: leave it by `async with contextlib.aclosing(turns.run(...)) as events`. Closing it or
        cancelling its task before `done` stops generation and fails the turn, so that the same request_id runs it anew.
        `request.session` is `sessions/{id}`; an empty request_id is replaced by a new one, told in `accepted`.
        `after_turn`, or the request's own, is the number of the turn that must be the session's latest done one (0:
        none was yet), else NOT_LATEST_TURN. `received_at` is when the request's first byte came in, in seconds of
        time.monotonic().
        The deadline is that of the rpc being served, at most `gateway.turn_deadline_ms` from `received_at` on.
        """
        done = False
        try:
            with self._admitted():
                errand = await self._errand(tenant, request, after_turn, received_at)
                async with aclosing(self._turn(errand)) as events:
                    async for event in events:
                        done = event.HasField("done")
                        yield event
        except IsthmusError as error:
            self.metrics.failed(reason_name(error.reason).lower())
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not done:
                self.metrics.failed("client_gone")
            raise

    async def ended(self) -> None:
        """Waits for turns whose callers are gone to unwind, then for the commits and failures they left behind."""
        seconds_max = self._settings.fail_turn_ms_max / 1000
        try:
            async with asyncio.timeout(seconds_max):
                await self._idle.wait()
        except TimeoutError:
            structlog.get_logger("turns").warning("turns did not unwind", count=self._running)
        await self._background.ended(seconds_max)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._running >= self._settings.turns_count_max:
            message = f"{self._running} turns are under way, which is all that this gateway drives at once"
            raise IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message)
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _errand(
        self,
        tenant: str,
        request: session_service_pb2.RunTurnRequest,
        after_turn: int | None,
        received_at: float,
    ) -> Errand:
        check_messages(request.messages)
        if after_turn is None and request.HasField("after_turn"):
            after_turn = request.after_turn
        until = received_at + self._settings.turn_deadline_ms / 1000
        left = remaining_s()
        if left is not None:
            until = min(until, time.monotonic() + left)
        limits = await self._limits(request.model, until)
        return Errand(
            tenant=tenant,
            session=parse_session(request.session, "session"),
            request=request,
            request_id=request.request_id or new_id(self._random_bytes, "request"),
            digest=turn_digest(request, after_turn),
            driver=new_id(self._random_bytes, "driver"),
            after_turn=after_turn,
            limits=limits,
            budget=divide(limits, request.params),
            received_at=received_at,
            until=until,
        )

    async def _limits(self, model: str, until: float) -> ModelLimits:
        async def find() -> ModelLimits:
            return self._replicas.limits(model, last_known=self._settings.caches.serve_when_down)

        seconds = min(self._settings.upstream_wait_ms_max / 1000, until - time.monotonic())
        return await retrying(find, self._settings, seconds)

    async def _turn(self, errand: Errand) -> AsyncGenerator[Event, None]:
        """Opens until this call drives the turn or knows how it ended; each round waits for another call's progress."""
        calls = TurnCalls(self._shards, self._settings, errand)
        announced = False
        while True:
            opened, leg = await self._open(calls)
            if opened.outcome in _DRIVES:
                drive = Drive(
                    errand,
                    calls,
                    self._replicas,
                    self._driven,
                    self._background,
                    self._settings,
                    self._caches,
                    self._checks,
                )
                try:
                    async with aclosing(drive.events(opened, leg)) as events:
                        async for event in events:
                            if event.HasField("done"):
                                self.metrics.done(event.done.turn.receipt)
                            yield event
                    return
                except IsthmusError as error:
                    # Another call has taken the turn over; without text sent, its reply is as good as ours.
                    if error.reason != errors_pb2.ERROR_REASON_LEASE_LOST or drive.text_sent or announced:
                        raise
                    announced = True
            else:
                turn = await _ended(calls, opened)
                if turn is not None:
                    if not announced:
                        yield accepted(opened)
                    replay = list(_replayed(turn))
                    self.metrics.replayed()
                    for event in replay:
                        yield event
                    return

    async def _open(self, calls: TurnCalls) -> tuple[Opened, Leg]:
        """Opens in a task of its own: a turn that opens after its caller has gone is failed, not left to its lease."""
        opening = self._background.start(calls.open(), "open turn")
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._background.start(_undone(calls, opening), "fail turn")
            raise


async def _undone(calls: TurnCalls, opening: asyncio.Task[tuple[Opened, Leg]]) -> None:
    opened, _ = await opening
    if opened.outcome in _DRIVES:
        await calls.abandon(lease_of(opened))


async def _ended(calls: TurnCalls, opened: Opened) -> turn_pb2.Turn | None:
    """The turn once it is closed; None where opening it again is what helps: nobody drives it, or its caller left."""
    if opened.outcome == Opened.OUTCOME_FINISHED:
        return opened.turn
    turn = opened.turn
    while turn.state == turn_pb2.Turn.STATE_OPEN:
        waited = await calls.wait(opened)
        if waited.lease_lapsed:
            return None
        turn = waited.turn
    caller_gone = turn.state == turn_pb2.Turn.STATE_FAILED and turn.error.reason in CALLER_GONE
    return None if caller_gone or turn.state == turn_pb2.Turn.STATE_EXPIRED else turn


def _replayed(turn: turn_pb2.Turn) -> Iterator[Event]:
    """The events of a closed turn; raises what it ended with, if that was no reply."""
    if turn.state == turn_pb2.Turn.STATE_CANCELLED:
        raise IsthmusError(errors_pb2.ERROR_REASON_TURN_CANCELLED, f"{turn.name} was cancelled")
    if turn.state != turn_pb2.Turn.STATE_DONE:
        raise IsthmusError(turn.error.reason, turn.error.message)
    if turn.output_text:
        yield Event(delta=Event.Delta(text=turn.output_text))
    yield Event(done=Event.Done(turn=turn))
