"""Tells the index by last use, in batches, which sessions this shard has written."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from redis.exceptions import RedisError

from context_store.log.keys import Keys
from context_store.tiering.indexes import Indexes
from services.config import TieringSettings
from services.errors import IsthmusError
from services.long_task import LongTask

_log: Final = structlog.get_logger("context_store")


class Touches:
    """The sessions written since the last batch. One that is forgotten only makes the janitor look in vain."""

    def __init__(self, indexes: Indexes, settings: TieringSettings) -> None:
        self._indexes = indexes
        self._settings = settings
        self._waiting: set[Keys] = set()
        self._task = LongTask()

    def note(self, keys: Keys) -> None:
        """Takes a session in; none beyond `touches_count_max`."""
        if len(self._waiting) < self._settings.touches_count_max:
            self._waiting.add(keys)

    def forget(self, keys: Keys) -> None:
        """A session that is erased is not noted again."""
        self._waiting.discard(keys)

    async def flush(self) -> None:
        """Writes what waits; kept for the next time when Valkey is away."""
        waiting, self._waiting = self._waiting, set()
        try:
            await self._indexes.touch(waiting)
        except (RedisError, IsthmusError) as error:
            _log.warning("could not note which sessions were used", problem=str(error))
            for keys in waiting:
                self.note(keys)

    def start(self) -> None:
        """Begins to write a batch each `touch_interval_ms`."""
        self._task.start(self._run(), "touches")

    async def stop(self) -> None:
        """Writes the last batch."""
        await self._task.stop()
        await self.flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.touch_interval_ms / 1000)
            if self._waiting:
                await self.flush()
