"""A task that runs beside its owner, from the owner's start to its stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class LongTask:
    """Begun once, and ended before its owner is gone. What it raises in between is asyncio's to tell."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, run: Coroutine[Any, Any, None], name: str) -> None:
        """Begins it."""
        self._task = asyncio.create_task(run, name=name)

    async def stop(self) -> bool:
        """Breaks it off wherever it stands, and waits until it has ended. False if it was never begun."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True
