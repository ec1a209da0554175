"""What a caller has asked for, a turn to be run or one to be read: opened, driven, followed, taken over, told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.bounds import check_messages
from gateway.identity import new_id, turn_digest
from gateway.metrics import TurnMetrics
from gateway.names import Numbered, parse_session, session_name
from gateway.retry import retrying
from gateway.turn.budget import ModelLimits, divide
from gateway.turn.calls import Errand, Job, Place, TurnCalls, lease_of
from gateway.turn.drive import Drive, Means
from gateway.turn.follow import Follower, accepted, runs_anew, tell_closed
from gateway.turn.output import Output
from gateway.turn.receipt import Leg
from services.errors import IsthmusError

Opened = context_service_pb2.OpenTurnResponse
_DRIVES: Final = (Opened.OUTCOME_OPENED, Opened.OUTCOME_TAKEN_OVER)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call for a turn: whose it is, its request, and when it came and is over, by time.monotonic()."""

    tenant: str
    request: session_service_pb2.RunTurnRequest
    after_turn: int | None
    received_at: float
    until: float
    # Whether its caller reads the reply as it comes.
    is_streamed: bool
    job: Job | None = None


class Work:
    """Runs or reads one turn and tells it to `output`."""

    def __init__(
        self, means: Means, metrics: TurnMetrics, output: Output, asked: Asked, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._means = means
        self._metrics = metrics
        self._output = output
        self._asked = asked
        self._random_bytes = random_bytes
        session = parse_session(asked.request.session, "session")
        self._place = Place(asked.tenant, session, asked.until)
        self._follower = Follower(means.shards, means.settings, self._place, output)
        self._announced = ""

    async def run(self) -> None:
        """Opens until this gateway drives the turn or it is closed; each round waits for another driver's progress."""
        check_messages(self._asked.request.messages)
        errand = await self._errand()
        calls = TurnCalls(self._means.shards, self._means.settings, errand)
        while not self._output.is_left:
            opened, leg = await self._open(calls)
            number, incarnation = opened.turn.number, opened.incarnation
            if opened.outcome in _DRIVES:
                self._announce(opened.turn, attached=opened.outcome != Opened.OUTCOME_OPENED)
                if await self._driven(errand, calls, opened, leg):
                    return
                if self._asked.job is not None:
                    raise IsthmusError(errors_pb2.ERROR_REASON_LEASE_LOST, "another driver of the job has the turn")
                if self._output.piece:
                    # Another driver goes on behind what was told.
                    await self._read(number, incarnation)
                    return
            elif opened.outcome == Opened.OUTCOME_FINISHED:
                self._tell_closed(opened.turn)
                return
            elif opened.turn.on_disconnect == turn_pb2.ON_DISCONNECT_CONTINUE:
                self._announce(opened.turn, attached=True)
                await self._read(number, incarnation)
                return
            else:
                # Told when it is done: until then its own caller may leave and end it, and the request runs anew.
                turn = (await self._follower.wait(number, incarnation)).turn
                if turn.state != turn_pb2.Turn.STATE_OPEN and not runs_anew(turn):
                    self._tell_closed(turn)
                    return

    async def submit(self) -> tuple[Opened, TurnCalls]:
        """Opens the turn for its job, which nobody drives yet."""
        check_messages(self._asked.request.messages)
        calls = TurnCalls(self._means.shards, self._means.settings, await self._errand())
        opened, _ = await calls.open()
        return opened, calls

    async def attach(self, number: int) -> None:
        """Tells a turn from `output.piece` on. Drives it on where nobody else does."""
        looked = await self._follower.look(number)
        self._announce(looked.turn, attached=True)
        if looked.turn.state == turn_pb2.Turn.STATE_OPEN:
            await self._read(number, looked.incarnation)
        else:
            self._tell_closed(looked.turn)

    async def _read(self, number: int, incarnation: bytes) -> None:
        while True:
            waited = await self._follower.follow(number, incarnation)
            if waited.turn.state != turn_pb2.Turn.STATE_OPEN:
                self._tell_closed(waited.turn)
                return
            if self._output.is_left or await self._taken(waited.turn, incarnation):
                return

    async def _taken(self, turn: turn_pb2.Turn, incarnation: bytes) -> bool:
        """Drives a turn whose driver was lost; False where somebody else does by then."""
        errand = await self._errand_of(turn)
        calls = TurnCalls(self._means.shards, self._means.settings, errand)
        opened, leg = await calls.take(turn.number, incarnation)
        self._output.outlives = opened.outcome in _DRIVES
        return opened.outcome in _DRIVES and await self._driven(errand, calls, opened, leg)

    async def _driven(self, errand: Errand, calls: TurnCalls, opened: Opened, leg: Leg) -> bool:
        """False where another driver has taken the turn."""
        try:
            turn = await Drive(errand, calls, self._means, self._output).run(opened, leg)
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_LEASE_LOST:
                raise
            return False
        self._metrics.done(turn.receipt)
        return True

    def _announce(self, turn: turn_pb2.Turn, *, attached: bool) -> None:
        if self._announced != turn.name:
            self._announced = turn.name
            self._output.tell(accepted(turn, attached=attached))

    def _tell_closed(self, turn: turn_pb2.Turn) -> None:
        if turn.state == turn_pb2.Turn.STATE_DONE:
            self._announce(turn, attached=True)
            self._metrics.replayed()
        tell_closed(turn, self._output)

    async def _errand(self) -> Errand:
        """The errand of the call's own request."""
        asked, request = self._asked, self._asked.request
        after_turn = asked.after_turn
        if after_turn is None and request.HasField("after_turn"):
            after_turn = request.after_turn
        limits = await self._limits(request.model)
        return Errand(
            tenant=asked.tenant,
            session=self._place.session,
            request=request,
            request_id=request.request_id or new_id(self._random_bytes, "request"),
            digest=turn_digest(request, after_turn),
            driver=asked.job.driver if asked.job else new_id(self._random_bytes, "driver"),
            after_turn=after_turn,
            limits=limits,
            budget=divide(limits, request.params),
            received_at=asked.received_at,
            until=asked.until,
            is_streamed=asked.is_streamed,
            job=asked.job,
        )

    async def _errand_of(self, turn: turn_pb2.Turn) -> Errand:
        """The errand of a turn that is there: as it was asked for, but for its messages, which the store has."""
        request = session_service_pb2.RunTurnRequest(
            session=session_name(self._place.session),
            request_id=turn.request_id,
            params=turn.params if turn.HasField("params") else None,
            model=turn.model,
            on_disconnect=turn.on_disconnect,
            labels=turn.labels,
        )
        limits = await self._limits(turn.model)
        return Errand(
            tenant=self._place.tenant,
            session=self._place.session,
            request=request,
            request_id=turn.request_id,
            digest=b"",
            driver=new_id(self._random_bytes, "driver"),
            after_turn=None,
            limits=limits,
            budget=divide(limits, request.params),
            received_at=self._asked.received_at,
            # Nobody has to stay for it.
            until=self._asked.received_at + self._means.settings.turn_deadline_ms / 1000,
            is_streamed=self._asked.is_streamed,
        )

    async def _limits(self, model: str) -> ModelLimits:
        settings = self._means.settings

        async def find() -> ModelLimits:
            return self._means.replicas.limits(model, last_known=settings.caches.serve_when_down)

        seconds = min(settings.upstream_wait_ms_max / 1000, self._asked.until - time.monotonic())
        return await retrying(find, settings, seconds)

    async def _open(self, calls: TurnCalls) -> tuple[Opened, Leg]:
        """Opens in a task of its own: a turn that opens after its caller has gone is failed, not left to its lease."""
        opening = self._means.background.start(calls.open(), "open turn")
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._means.background.start(_undone(calls, opening), "fail turn")
            raise


def reading(tenant: str, name: Numbered, received_at: float, until: float) -> Asked:
    """A call for a turn that is there."""
    request = session_service_pb2.RunTurnRequest(session=session_name(name.session))
    return Asked(tenant, request, None, received_at, until, is_streamed=True)


async def _undone(calls: TurnCalls, opening: asyncio.Task[tuple[Opened, Leg]]) -> None:
    opened, _ = await opening
    if opened.outcome in _DRIVES:
        await calls.abandon(lease_of(opened))
