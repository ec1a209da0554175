"""A room's docket worker: takes jobs until told to drain, finishes those it has, and outlives Valkey's absences."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from docket import Docket, Worker

# Between two requests to let go: a worker that is cancelled waits for its jobs, one that is asked again cancels them.
_INSIST_S: Final = 0.1

_log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Pace:
    """Jobs at once; how often a free place and a due retry are looked for; when others' jobs, and Valkey, are tried."""

    concurrent_max: int
    poll_ms: int
    schedule_ms: int
    redelivery_ms: int
    reconnect_ms: int


class JobWorker:
    """Runs jobs of `queue` at this pace, under this member's name."""

    def __init__(self, queue: Docket, pace: Pace, member_id: str) -> None:
        self._queue = queue
        self._pace = pace
        self._member_id = member_id
        self._draining = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take jobs."""
        self._task = asyncio.create_task(self._run(), name="jobs")

    async def drain(self, wait_ms_max: int) -> None:
        """Takes no new job and waits for those that run, at most so long."""
        self._draining.set()
        if self._task:
            await asyncio.wait({self._task}, timeout=wait_ms_max / 1000)

    async def stop(self) -> None:
        """Ends the jobs that still run; another worker gets them once their lease is over."""
        self._draining.set()
        while self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_INSIST_S)

    async def _run(self) -> None:
        while not self._draining.is_set():
            try:
                await self._work()
            except Exception:  # noqa: BLE001 - a bug in one job must not end the others' worker
                _log.exception("worker failed, another follows", delay_ms=self._pace.reconnect_ms)
                await self._pause()

    async def _work(self) -> None:
        async with self._worker() as worker:
            running = asyncio.create_task(worker.run_forever(), name="docket")
            draining = asyncio.create_task(self._draining.wait(), name="draining")
            try:
                await asyncio.wait({running, draining}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                running.cancel()
                raise
            finally:
                draining.cancel()
        # Leaving the worker's context has told it to take no more, and waited for what it had.
        await running

    def _worker(self) -> Worker:
        pace = self._pace
        return Worker(
            self._queue,
            name=self._member_id,
            concurrency=pace.concurrent_max,
            message_batch=pace.concurrent_max,
            redelivery_timeout=timedelta(milliseconds=pace.redelivery_ms),
            reconnection_delay=timedelta(milliseconds=pace.reconnect_ms),
            minimum_check_interval=timedelta(milliseconds=pace.poll_ms),
            scheduling_resolution=timedelta(milliseconds=pace.schedule_ms),
            schedule_automatic_tasks=False,
        )

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._pace.reconnect_ms / 1000):
                await self._draining.wait()
        except TimeoutError:
            return
