"""Committed turns on their way to the critic: a share of them, by a digest of their names, and none waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog
from docket import Docket
from isthmus.session.v1 import turn_pb2
from prometheus_client import CollectorRegistry, Counter

from gateway.jobs.queue import JobQueue
from gateway.names import parse_turn
from services import jobs
from services.audits.record import is_sampled
from services.config import Settings
from services.errors import IsthmusError
from services.job_worker import Pace

_QUEUE_TRIES_COUNT_MAX: Final = 3
_log: Final = structlog.get_logger("audits")


class AuditLine:
    """A bounded line in front of the compressors' queue. What has no room is skipped and counted.

    A gateway that dies takes its line along: a sample is as good without them.
    """

    def __init__(self, settings: Settings, member_id: str) -> None:
        self._settings = settings.gateway.validation
        pace = Pace(0, 0, 0, 0, settings.compressor.job_reconnect_ms)
        self._queue = JobQueue(settings, "", pace, member_id, _declare)
        self._retry_s = settings.compressor.job_retry_ms_min / 1000
        self._waiting: deque[tuple[str, str, int]] = deque()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._counts = Counter(
            "isthmus_audits",
            "Turns of the share that is audited: asked for, or skipped for want of room or of Valkey.",
            ("outcome",),
            registry=None,
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Tells the counts with others."""
        registry.register(self._counts)

    def start(self) -> None:
        """Begins to ask for audits, if any are wanted."""
        if self._settings.audit_share:
            self._queue.start()
            self._task = asyncio.create_task(self._run(), name="audits")

    async def stop(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._queue.stop()

    def committed(self, tenant: str, turn: turn_pb2.Turn) -> None:
        """A turn is done. A cached answer has been judged with the turn that it is from, or not."""
        if self._task is None or turn.receipt.HasField("cache"):
            return
        if not is_sampled(tenant, turn.name, self._settings.audit_share):
            return
        if len(self._waiting) >= self._settings.audits_waiting_count_max:
            self._counts.labels("skipped_line_full").inc()
            return
        name = parse_turn(turn.name)
        self._waiting.append((tenant, name.session, name.number))
        self._moved.set()

    async def _run(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            while self._waiting:
                self._counts.labels(await self._asked(*self._waiting.popleft())).inc()

    async def _asked(self, tenant: str, session: str, turn: int) -> str:
        for attempt in range(1, _QUEUE_TRIES_COUNT_MAX + 1):
            try:
                if await self._queue.depth() >= self._settings.audits_queue_count_max:
                    return "skipped_queue_full"
                await self._queue.add(jobs.AUDIT_TURN, jobs.audit_key(tenant, session, turn), tenant, session, turn)
            except IsthmusError as error:
                _log.info("audit not asked for", session=session, turn=turn, attempt=attempt, error=str(error))
                await asyncio.sleep(self._retry_s * attempt)
            else:
                return "asked"
        return "skipped_queue_away"


def _declare(docket: Docket) -> None:
    docket.register(jobs.audit_turn)
