"""A docket of the gateway's own: opened as soon as Valkey lets it, worked at, and asked for one job at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import structlog
from docket import Docket
from redis.exceptions import RedisError

from services import jobs
from services.config import Settings
from services.errors import UpstreamUnavailable
from services.job_worker import JobWorker, Pace
from services.valkey.failover import expected

_log: Final = structlog.get_logger("jobs")


class JobQueue:
    """Jobs of a few kinds, which `register` makes known. A gateway starts without it while Valkey is away.

    Methods raise UPSTREAM_UNAVAILABLE while Valkey is.
    """

    def __init__(
        self, settings: Settings, suffix: str, pace: Pace, member_id: str, register: Callable[[Docket], None]
    ) -> None:
        self._settings = settings
        self._suffix = suffix
        self._pace = pace
        self._member_id = member_id
        self._register = register
        self._docket: Docket | None = None
        self._problem = "the gateway has just started"
        self._worker: JobWorker | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Opens the queue and begins to take jobs."""
        # One line a job is ours to write; docket would add a traceback for each attempt that is simply too early.
        logging.getLogger("docket.worker").setLevel(logging.WARNING)
        logging.getLogger("docket.dependencies").setLevel(logging.CRITICAL)
        self._task = asyncio.create_task(self._live(), name=f"queue{self._suffix}")

    async def drain(self, wait_ms_max: int) -> None:
        """Takes no new job and waits for those that run, at most so long."""
        if self._worker:
            await self._worker.drain(wait_ms_max)

    async def stop(self) -> None:
        """Ends the jobs that still run; another gateway gets them once this one's hold on them is over."""
        if self._worker:
            await self._worker.stop()
        self._closing.set()
        if self._task:
            # One that is cancelled while it connects leaves the connection open.
            _, late = await asyncio.wait({self._task}, timeout=self._settings.valkey.command_ms_max / 1000)
            for task in late:
                task.cancel()

    async def add(self, kind: str, key: str, *args: object) -> None:
        """Asks for a job; nothing is added where one of this key waits or runs."""
        docket = self._opened()
        try:
            await docket.add(kind, key=key)(*args)
        except RedisError as error:
            raise expected(error) or UpstreamUnavailable(f"the queue cannot be reached: {error}") from error

    async def cancel(self, key: str) -> None:
        """Takes a job back, or ends it where it runs; one that nobody asked for is no error."""
        docket = self._opened()
        try:
            await docket.cancel(key)
        except RedisError as error:
            raise expected(error) or UpstreamUnavailable(f"the queue cannot be reached: {error}") from error

    async def depth(self) -> int:
        """Jobs that wait, or run, or wait for a retry."""
        docket = self._opened()
        try:
            async with docket.redis() as redis:
                waiting, later = await redis.xlen(docket.stream_key), await redis.zcard(docket.queue_key)
        except RedisError as error:
            raise expected(error) or UpstreamUnavailable(f"the queue cannot be reached: {error}") from error
        return int(waiting) + int(later)

    def _opened(self) -> Docket:
        if self._docket is None:
            raise UpstreamUnavailable(f"the queue of jobs is not open: {self._problem}")
        return self._docket

    async def _live(self) -> None:
        while not self._closing.is_set():
            try:
                async with jobs.docket(self._settings, self._suffix) as docket:
                    self._register(docket)
                    self._docket = docket
                    if self._pace.concurrent_max and not self._closing.is_set():
                        self._worker = JobWorker(docket, self._pace, self._member_id)
                        self._worker.start()
                    await self._closing.wait()
            except RedisError as error:
                problem = str(expected(error) or error)
                if problem != self._problem:
                    self._problem = problem
                    _log.warning("queue is not open", queue=self._suffix, problem=problem)
                await self._pause()
            finally:
                self._docket = None

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._pace.reconnect_ms / 1000):
                await self._closing.wait()
        except TimeoutError:
            return
