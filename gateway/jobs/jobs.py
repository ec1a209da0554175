"""Turns in the background: taken in, looked up, cancelled and replayed; and run here, as in any other gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog
from docket import Docket, Retry
from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.backend import Backend
from gateway.background import Background
from gateway.identity import new_id
from gateway.jobs.book import JobBook
from gateway.jobs.ending import Ending
from gateway.jobs.leases import TurnLeases
from gateway.jobs.metrics import JobMetrics
from gateway.jobs.queue import JobQueue
from gateway.jobs.record import JobRecord, JobState, driver_of, job_name
from gateway.jobs.run import JobRunner
from gateway.names import parse_session, parse_turn
from gateway.shards import Shards
from gateway.turn.calls import Job
from gateway.turn.turns import TurnDriver
from gateway.webhooks.webhooks import Webhooks
from services.config import Settings
from services.errors import IsthmusError, NotFound
from services.job_worker import Pace
from services.long_task import LongTask
from services.rpc.deadlines import without_deadline
from services.valkey import Acknowledger, Client

RUN_TURN: Final = "run_turn"
_Opened: Final = context_service_pb2.OpenTurnResponse
_OURS: Final = (_Opened.OUTCOME_OPENED, _Opened.OUTCOME_TAKEN_OVER)
_log: Final = structlog.get_logger("jobs")


class TurnJobs:
    """The gateway's part in the mesh's jobs. Methods raise IsthmusErrors."""

    def __init__(
        self,
        valkey: Client,
        backend: Backend,
        turns: TurnDriver,
        shards: Shards,
        settings: Settings,
        member_id: str,
        random_bytes: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._turns = turns
        self._random_bytes = random_bytes
        self._clock = clock
        self._drain_ms_max = settings.rpc.drain_ms_max
        self._stop_ms_max = settings.gateway.fail_turn_ms_max
        own = self._settings = settings.gateway.jobs
        self._acknowledger = Acknowledger(valkey, settings.valkey)
        self._metrics = JobMetrics(turns.metrics.registry)
        self.book = JobBook(valkey, self._acknowledger, own)
        self.webhooks = Webhooks(valkey, self._acknowledger, settings, member_id, turns.metrics.registry)
        self._leases = TurnLeases(shards, settings.gateway.fail_turn_ms_max)
        self._ending = Ending(self.book, self.webhooks, self._metrics)
        self._runner = JobRunner(backend, turns, self.book, self._leases, self._ending, self._metrics, own)
        pace = Pace(own.turns_concurrent_max, own.poll_ms, own.schedule_ms, own.redelivery_ms, own.reconnect_ms)
        self._queue = JobQueue(settings, "-turns", pace, member_id, self._register)
        self._background = Background()
        backend.erasing.append(self._erase)
        self._measuring = LongTask()

    def start(self) -> None:
        """Begins to take jobs."""
        self._queue.start()
        self.webhooks.start()
        self._measuring.start(self._measure(), "depth of the queue")

    async def drain(self) -> None:
        """Takes no new job and lets those that run end, within `rpc.drain_ms_max`."""
        await asyncio.gather(self._queue.drain(self._drain_ms_max), self.webhooks.queue.drain(self._drain_ms_max))

    async def stop(self) -> None:
        """Leaves what still runs to the other gateways."""
        await self._measuring.stop()
        await self._background.ended(self._stop_ms_max / 1000)
        await self._queue.stop()
        await self.webhooks.stop()
        await self._acknowledger.aclose()

    async def submit(
        self, tenant: str, request: session_service_pb2.RunTurnRequest, *, after_turn: int | None = None
    ) -> tuple[turn_pb2.Turn, JobRecord | None]:
        """The turn, durable and in the queue; with its job, None where there is none, or none any more.

        The same request again finds the same turn. A turn that a foreground call drives stays with that call.
        """
        own = session_service_pb2.RunTurnRequest()
        own.CopyFrom(request)
        own.request_id = request.request_id or new_id(self._random_bytes, "request")
        own.on_disconnect = turn_pb2.ON_DISCONNECT_CONTINUE
        if after_turn is not None:
            own.after_turn = after_turn
        # What is opened is queued, or failed, whether or not its caller still waits.
        return await self._background.finish(self._submit(tenant, own), "submit turn")

    async def find(self, tenant: str, session: str, turn: int) -> JobRecord | None:
        """The job of a turn, None where the book knows none, or none any more."""
        record = await self.book.find(tenant, job_name(session, turn))
        is_old = record is not None and self._now_ms() - record.create_ms > 2 * self._settings.submit_ms_max
        if record is not None and record.state is JobState.QUEUED and is_old:
            # A gateway that was lost between book and queue left it to whoever looks; else this adds nothing.
            with contextlib.suppress(IsthmusError):
                await self._add(record)
        return record

    async def cancel(self, tenant: str, session: str, turn: int) -> turn_pb2.Turn:
        """Cancels an open turn, with its job if it has one."""
        cancelled = await self._backend.cancel_turn(tenant, session, turn)
        # The turn is cancelled: what does not succeed here is done where its job is delivered.
        with contextlib.suppress(IsthmusError):
            record = await self.book.find(tenant, job_name(session, turn))
            if record is not None and record.state.is_live:
                await self._ending.end(record, cancelled)
                await self._queue.cancel(record.key)
        return cancelled

    async def replay(self, tenant: str, session: str, turn: int) -> tuple[turn_pb2.Turn, JobRecord | None]:
        """Runs a dead letter anew as a new turn of its session. NOT_FOUND where it is none."""
        name = job_name(session, turn)
        record, stored = await self.book.find(tenant, name), await self.book.request(tenant, name)
        if record is None or stored is None or record.state is not JobState.DEAD:
            raise NotFound(f"dead letter sessions/{session}/turns/{turn}/operation")
        request = session_service_pb2.RunTurnRequest.FromString(stored)
        # The same each time, so that a replay whose answer was lost adds nothing. What the turn followed is past.
        request.request_id = f"replay-{record.key}"
        request.ClearField("after_turn")
        replayed = await self.submit(tenant, request)
        await self.book.forget(tenant, name, self._now_ms())
        return replayed

    async def forget(self, tenant: str, session: str, turn: int) -> bool:
        """Takes a dead letter, or the record of a job that has ended, out of the book; False where there is none."""
        return await self.book.forget(tenant, job_name(session, turn), self._now_ms())

    async def _erase(self, tenant: str, session: str) -> None:
        """Jobs go with their session: what is delivered then finds nothing to do."""
        try:
            await self.book.erase(tenant, session, self._now_ms())
        except IsthmusError as error:
            _log.warning("jobs not erased with their session", session=session, error=str(error))

    async def _submit(
        self, tenant: str, request: session_service_pb2.RunTurnRequest
    ) -> tuple[turn_pb2.Turn, JobRecord | None]:
        session = parse_session(request.session, "session")
        job = Job(driver_of(tenant, session, request.request_id), 0, self._settings.submit_ms_max)
        opened, _ = await self._turns.submit(tenant, request, job, received_at=time.monotonic())
        turn = opened.turn
        if opened.outcome not in _OURS:
            return turn, await self.book.find(tenant, job_name(session, turn.number))
        record = JobRecord(
            tenant=tenant,
            session=session,
            turn=parse_turn(turn.name).number,
            incarnation=opened.incarnation,
            request_id=request.request_id,
            create_ms=self._now_ms(),
        )
        await self._hand_over(record, turn.attempt, request.SerializeToString())
        await self._keep(record, turn.attempt)
        return turn, record

    async def _hand_over(self, record: JobRecord, attempt: int, request: bytes) -> None:
        """Into the book and the queue. What is refused, or entered and not queued, leaves no turn behind."""
        is_new = False
        try:
            is_new = await self.book.enter(record, request)
            await self._add(record)
        except IsthmusError as error:
            # One that was known is in the queue already, and was acknowledged.
            if is_new or error.reason == errors_pb2.ERROR_REASON_OVERLOADED:
                await self._undo(record, attempt, error)
            raise
        if is_new:
            self._metrics.submitted()

    async def _add(self, record: JobRecord) -> None:
        await self._queue.add(RUN_TURN, record.key, record.tenant, record.session, record.turn, record.key)

    async def _keep(self, record: JobRecord, attempt: int) -> None:
        """The session stays busy with this turn for as long as it may be queued."""
        try:
            with without_deadline():
                await self._leases.renew(record, attempt, self._settings.queued_ms_max)
        except IsthmusError as error:
            # A delivery has it already, and keeps it by itself.
            if error.reason != errors_pb2.ERROR_REASON_LEASE_LOST:
                _log.warning("queued turn not kept", session=record.session, turn=record.turn, error=str(error))

    async def _undo(self, record: JobRecord, attempt: int, error: IsthmusError) -> None:
        """Whoever asked is told that nothing was queued, so nothing may be. What fails here runs out with the lease."""
        with contextlib.suppress(IsthmusError), without_deadline():
            await self._leases.fail(record, attempt, error.reason, error.message)
            await self._ending.drop(record)

    async def _measure(self) -> None:
        while True:
            with contextlib.suppress(IsthmusError):
                self._metrics.depth.set(await self._queue.depth())
            await asyncio.sleep(self._settings.depth_ms / 1000)

    def _register(self, docket: Docket) -> None:
        again = Retry(attempts=None, delay=timedelta(milliseconds=self._settings.retry_ms_max))

        async def run_turn(tenant: str, session: str, turn: int, key: str, retry: Retry = again) -> None:
            wait_ms = await self._runner.run(tenant, session, turn, key, retry.attempt)
            if wait_ms is not None:
                retry.after(timedelta(milliseconds=wait_ms))

        docket.register(run_turn, names=[RUN_TURN])

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
