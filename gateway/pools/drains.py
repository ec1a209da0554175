"""Pools drained by hand, in Valkey: changed by one gateway, followed by all.

`isthmus:{pools}:drained` is a hash of pool -> ms since 1970 when it was drained.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from redis.exceptions import RedisError

from gateway.pools.pools import Pools
from services.config import ResilienceSettings
from services.errors import IsthmusError
from services.long_task import LongTask
from services.valkey import Acknowledger, Client, Script, command
from services.valkey.failover import expected

DRAINED_KEY: Final = "isthmus:{pools}:drained"
_DRAIN: Final = Script(Path(__file__).parent / "scripts" / "drain.lua")
_log: Final = structlog.get_logger("pools")


class Drains:
    """Keeps `pools.drained` up by a task of its own; while Valkey is away, what was known last stands."""

    def __init__(
        self,
        valkey: Client,
        acknowledger: Acknowledger,
        pools: Pools,
        settings: ResilienceSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._valkey = valkey
        self._acknowledger = acknowledger
        self._pools = pools
        self._settings = settings
        self._clock = clock
        self._away = False
        # Rises with each change made here, which an answer to an earlier look knows nothing of.
        self._changes = 0
        self._task = LongTask()

    async def start(self) -> None:
        """Takes a first look, if Valkey can be reached, and goes on looking."""
        await self._look()
        self._task.start(self._run(), "follow drained pools")

    async def stop(self) -> None:
        """Ends the task."""
        await self._task.stop()

    async def drain(self, pool: str) -> None:
        """No gateway begins a reply there from now on, others as soon as they have looked.

        Raises QUOTA_EXCEEDED for one pool too many, and what Acknowledger raises.
        """
        await self._change(pool, str(int(self._clock() * 1000)))

    async def resume(self, pool: str) -> None:
        """The pool takes turns again."""
        await self._change(pool, "")

    async def _change(self, pool: str, since: str) -> None:
        try:
            answer, _ = await self._acknowledger.run(
                _DRAIN, [DRAINED_KEY], [pool, since, self._settings.pools_count_max]
            )
        except RedisError as error:
            away = expected(error)
            if away is None:
                raise
            raise away from error
        if answer == b"full":
            raise IsthmusError(
                errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
                f"{self._settings.pools_count_max} pools are drained, which is the bound "
                "(gateway.resilience.pools_count_max)",
            )
        self._changes += 1
        self._see(answer)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.drains_poll_ms / 1000)
            await self._look()

    async def _look(self) -> None:
        changes = self._changes
        try:
            found = await command(self._valkey, "HGETALL", DRAINED_KEY)
        except RedisError as error:
            if not self._away:
                _log.warning("drained pools not seen, the last view stands", error=str(error))
            self._away = True
            return
        self._away = False
        if changes == self._changes:
            self._see([part for pair in found.items() for part in pair])

    def _see(self, flat: Sequence[bytes]) -> None:
        pairs = zip(flat[::2], flat[1::2], strict=True)
        # A stranger's entry must not end the view.
        self._pools.drained = {name.decode(): int(since) for name, since in pairs if since.isdigit()}
