"""Tenants' own limits, as this gateway has read them: whoever asks pays no trip."""

from __future__ import annotations

import asyncio

import structlog
from redis.exceptions import RedisError

from services.config import LimitsSettings
from services.limits.callers import Override
from services.limits.keeper import Overrides
from services.long_task import LongTask
from services.valkey import Client

_log = structlog.get_logger("limits")


class KnownOverrides:
    """Read within `gateway.limits.overrides_interval_ms` of a change; while Valkey is away, the last ones stand."""

    def __init__(self, valkey: Client, settings: LimitsSettings) -> None:
        self._stored = Overrides(valkey)
        self._interval_s = settings.overrides_interval_ms / 1000
        self._known: dict[str, Override] = {}
        self._task = LongTask()
        self._is_away = False
        # Rises with every change.
        self.version = -1

    async def start(self) -> None:
        """Reads them, if Valkey can be reached, and keeps them up from then on."""
        await self._read()
        self._task.start(self._run(), "view limits")

    async def stop(self) -> None:
        """Ends the task."""
        await self._task.stop()

    def of(self, tenant: str) -> Override | None:
        """The tenant's own limits, if it has any."""
        return self._known.get(tenant)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._read()

    async def _read(self) -> None:
        try:
            # Before what it is of: a change in between is read the next time.
            version = await self._stored.version()
            if version != self.version:
                self._known = await self._stored.all()
                self.version = version
        except RedisError as error:
            if not self._is_away:
                _log.warning("limits not read, the last ones stand", error=str(error))
            self._is_away = True
            return
        self._is_away = False
