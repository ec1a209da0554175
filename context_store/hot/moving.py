"""Lets go of the copies of sessions that the ring has given to another shard, each once no turn of it is open."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from redis.exceptions import RedisError

from context_store.hot.ownership import Ownership
from context_store.hot.sessions import Sessions
from context_store.log.keys import Keys
from context_store.log.log import Log
from services.config import Settings
from services.errors import IsthmusError, NotFound
from services.long_task import LongTask
from services.membership import View
from services.router import STORE

_log: Final = structlog.get_logger("moving")


class Moving:
    """A task that looks at the copies whenever the room's members have changed, so many at a time."""

    def __init__(self, sessions: Sessions, log: Log, ownership: Ownership, view: View, settings: Settings) -> None:
        self._sessions = sessions
        self._log = log
        self._ownership = ownership
        self._view = view
        self._look_s = settings.membership.heartbeat_interval_ms / 1000
        self._poll_s = settings.store.wait_poll_ms / 1000
        self._batch = settings.store.moving_batch_count_max
        self._task = LongTask()

    def start(self) -> None:
        self._task.start(self._run(), "moving sessions")

    async def stop(self) -> None:
        """Ends the task."""
        await self._task.stop()

    async def turns_ended(self) -> None:
        """Waits until no turn is open in any copy, wherever it is closed. Bounded by the caller's timeout."""
        while True:
            driven = [keys for keys in self._sessions.held() if self._sessions.open_turn(keys)]
            if not [keys for keys in driven if not await self._let_go(keys)]:
                return
            await asyncio.sleep(self._poll_s)

    async def _run(self) -> None:
        version, left = self._view.version(STORE), list[Keys]()
        while True:
            await asyncio.sleep(self._look_s)
            if version != self._view.version(STORE):
                version, left = self._view.version(STORE), self._sessions.held()
            left = await self._sweep(left)

    async def _sweep(self, copies: list[Keys]) -> list[Keys]:
        """Lets go of the copies that may go; those that have moved and may not yet."""
        left: list[Keys] = []
        for start in range(0, len(copies), self._batch):
            moved = filter(self._ownership.is_elsewhere, copies[start : start + self._batch])
            left += [keys for keys in moved if not await self._let_go(keys)]
            # Calls that wait for the event loop go first.
            await asyncio.sleep(0)
        return left

    async def _let_go(self, keys: Keys) -> bool:
        """Drops the copy unless its turn is still open or somebody uses it."""
        turn = self._sessions.open_turn(keys)
        if turn and await self._is_open(keys, turn):
            return False
        return self._sessions.let_go(keys)

    async def _is_open(self, keys: Keys, turn: int) -> bool:
        """Whether the turn is open and driven: its driver may have gone on with it at another shard."""
        try:
            state = await self._log.turn_state(keys, turn)
        except NotFound:
            return False
        except (IsthmusError, RedisError) as error:
            _log.warning("open turn not looked at", session=keys.session, turn=turn, error=str(error))
            return True
        return bool(state.attempt) and state.left_ms > 0
