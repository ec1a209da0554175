"""Telling the compressor what has grown: closed segments go to the job queue, from a task of their own.

Nothing waits for it. What is lost when a process dies is found again when the session is next loaded, for a closed
segment without a summary is announced then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog
from redis.exceptions import RedisError

from context_store.hot.hot_session import HotSession
from context_store.log.keys import Keys
from services.collections import collection_of
from services.config import StoreSettings
from services.long_task import LongTask

# Asks for the summary of a segment: tenant, session, first and last sequence number.
Enqueue: TypeAlias = Callable[[str, str, int, int], Awaitable[None]]

_log: Final = structlog.get_logger("segment events")


class SegmentEvents:
    """A bounded line of segments in front of the job queue; what does not fit is announced later."""

    def __init__(self, enqueue: Enqueue, settings: StoreSettings) -> None:
        self._enqueue = enqueue
        self._settings = settings
        self._pending: deque[tuple[str, str, int, int]] = deque()
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._task = LongTask()

    def start(self) -> None:
        self._task.start(self._run(), "segment events")

    async def stop(self) -> None:
        """Ends the task; what is pending is announced when its session is loaded again."""
        await self._task.stop()

    def announce(self, keys: Keys, hot: HotSession | None) -> None:
        """Puts the session's segments that were closed since the last call in line, as far as there is room.

        A session of a collection has no turns, and so no window that would need a summary.
        """
        if collection_of(keys.session):
            return
        while (
            hot and hot.announced < len(hot.segments) and len(self._pending) < self._settings.events_pending_count_max
        ):
            segment = hot.segments[hot.announced]
            if hot.is_unsummarised(segment):
                self._pending.append((keys.tenant, keys.session, *segment))
            hot.announced += 1
        if self._pending:
            self._wake.set()

    async def forget(self, keys: Keys) -> None:
        """Takes a session that is erased out of the line, and waits for what is on its way."""
        of_others = [one for one in self._pending if one[:2] != (keys.tenant, keys.session)]
        self._pending.clear()
        self._pending.extend(of_others)
        async with self._sending:
            return

    async def _run(self) -> None:
        retry_ms = self._settings.events_retry_ms_min
        while True:
            await self._wake.wait()
            try:
                while self._pending:
                    first = self._pending[0]
                    async with self._sending:
                        await self._enqueue(*first)
                    if self._pending and self._pending[0] is first:
                        self._pending.popleft()
                    retry_ms = self._settings.events_retry_ms_min
                self._wake.clear()
            except (RedisError, OSError) as error:
                _log.warning("segment not announced yet", error=str(error), retry_ms=retry_ms)
                await asyncio.sleep(retry_ms / 1000)
                retry_ms = min(2 * retry_ms, self._settings.events_retry_ms_max)
