"""Work that outlives the call which began it: each piece bounded in time, all of it waited for at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")


class Background:
    """The tasks under way; a few for each running turn."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Begins the work in a task of its own, which may be awaited or left to itself."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """The work's answer. Cancelling the caller leaves the work to end by itself."""
        return await asyncio.shield(self.start(work, name))

    async def ended(self, seconds_max: float) -> None:
        """Waits for what is under way; cancels what has not ended by then."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=seconds_max)
            for task in late:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger("background").debug("ended with an error", task=task.get_name(), error=str(error))
