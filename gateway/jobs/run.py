"""One delivery of a job: the turn is driven to its end, left for another attempt, or given up with its reason.

A job may be delivered again at any moment: its gateway was lost, or was only thought to be. So each delivery first
looks what the turn has come to; it drives the turn as a new attempt, which fences the earlier ones off; and it leaves
the turn open behind it unless it knows the job's end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import aclosing
from random import random
from typing import Final

import msgspec
import structlog
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.backend import Backend
from gateway.identity import new_id
from gateway.jobs.book import JobBook
from gateway.jobs.ending import Ending
from gateway.jobs.leases import TurnLeases
from gateway.jobs.metrics import JobMetrics
from gateway.jobs.record import JobRecord, JobState, job_name, reason_of
from gateway.jobs.verdict import backoff_ms, delay_ms
from gateway.turn.calls import Job
from gateway.turn.turns import TurnDriver
from services.config import JobSettings
from services.errors import IsthmusError, reason_name

_log: Final = structlog.get_logger("jobs")


class JobRunner:
    """Runs deliveries of jobs."""

    def __init__(
        self,
        backend: Backend,
        turns: TurnDriver,
        book: JobBook,
        leases: TurnLeases,
        ending: Ending,
        metrics: JobMetrics,
        settings: JobSettings,
        random_bytes: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._turns = turns
        self._book = book
        self._leases = leases
        self._ending = ending
        self._metrics = metrics
        self._settings = settings
        self._random_bytes = random_bytes
        self._clock = clock

    async def run(self, tenant: str, session: str, turn: int, key: str, delivery: int) -> int | None:
        """Works at the job; the wait in ms until its next attempt, None when it is over.

        `delivery` counts from 1 on what was asked for again after a wait.
        """
        try:
            record = await self._book.find(tenant, job_name(session, turn))
            if record is None or record.key != key or not record.state.is_live:
                return None
            with self._metrics.running.track_inprogress():
                return await self._work(record, delivery)
        except IsthmusError as error:
            # Not the turn's failure: nothing could be learned of it, or noted. That ends no job.
            _log.warning("job later", session=session, turn=turn, error=str(error))
            settings = self._settings
            return backoff_ms(delivery, settings.retry_ms_min, settings.retry_ms_max, random())  # noqa: S311

    async def _work(self, record: JobRecord, delivery: int) -> int | None:
        turn = await self._turn(record)
        if turn is None or turn.state != turn_pb2.Turn.STATE_OPEN:
            await self._settle(record, turn)
            return None
        # The turn's own first attempt opened it, and nobody drove that: its count is that of deliveries with this one.
        attempt = max(turn.attempt, delivery)
        record = self._begun(record, attempt)
        if attempt > self._settings.attempts_count_max:
            return await self._failed(record, _lost(record, attempt - 1))
        if not await self._book.change(record):
            return None
        try:
            done = await self._drive(record)
        except IsthmusError as error:
            return await self._failed(record, error)
        except Exception as error:  # noqa: BLE001 - a bug that one turn meets ends in a dead letter, not in nothing
            _log.exception("job failed", session=record.session, turn=record.turn)
            internal = IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, f"an error of ours, {type(error).__name__}")
            return await self._failed(record, internal)
        await self._ending.end(record, done)
        return None

    async def _turn(self, record: JobRecord) -> turn_pb2.Turn | None:
        try:
            return await self._backend.get_turn(record.tenant, record.session, record.turn)
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
                raise
            return None

    def _begun(self, record: JobRecord, attempt: int) -> JobRecord:
        now_ms = int(self._clock() * 1000)
        return msgspec.structs.replace(record, state=JobState.RUNNING, attempt=attempt, start_ms=now_ms, output_bytes=0)

    async def _drive(self, record: JobRecord) -> turn_pb2.Turn:
        """Drives the turn as the same request from a client would; the turn once it is done."""
        stored = await self._book.request(record.tenant, record.name)
        if stored is None:
            raise IsthmusError(errors_pb2.ERROR_REASON_CORRUPT, "the job's request is not in the book any more")
        request = session_service_pb2.RunTurnRequest.FromString(stored)
        driver = new_id(self._random_bytes, "job")
        job = Job(driver, record.turn, self._settings.queued_ms_max)
        told_at, output_bytes = time.monotonic(), 0
        run = self._turns.run(record.tenant, request, received_at=time.monotonic(), job=job)
        async with aclosing(run) as events:
            async for event in events:
                if event.HasField("done"):
                    return event.done.turn
                if event.HasField("delta"):
                    output_bytes += len(event.delta.text.encode())
                    if time.monotonic() - told_at > self._settings.progress_ms / 1000:
                        told_at = time.monotonic()
                        await self._book.change(msgspec.structs.replace(record, output_bytes=output_bytes))
        raise IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, "the turn ended without an answer")

    async def _failed(self, record: JobRecord, error: IsthmusError) -> int | None:
        wait_ms = delay_ms(error, record.attempt, self._settings, random())  # noqa: S311
        if wait_ms is not None:
            self._metrics.retried(reason_name(error.reason))
            waiting = msgspec.structs.replace(
                record, state=JobState.WAITING, reason=reason_name(error.reason), message=error.message
            )
            await self._book.change(waiting)
            return wait_ms
        turn = await self._turn(record)
        if turn is not None and turn.state == turn_pb2.Turn.STATE_OPEN:
            await self._leases.fail(record, turn.attempt, error.reason, error.message)
            turn = await self._turn(record)
        await self._settle(record, turn)
        return None

    async def _settle(self, record: JobRecord, turn: turn_pb2.Turn | None) -> None:
        """Ends the job as its turn has ended."""
        if turn is None:
            await self._ending.drop(record)
        else:
            await self._ending.end(record, turn)


def _lost(record: JobRecord, attempts: int) -> IsthmusError:
    """Why a job is given up whose last gateway said nothing: what an attempt that could tell failed of, or that."""
    message = f"its gateway was lost, or it failed, in each of {attempts} attempts"
    reason = reason_of(record.reason) if record.reason else errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    return IsthmusError(reason, f"{message}: {record.message or 'nothing else is known'}")
