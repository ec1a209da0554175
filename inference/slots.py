"""How many requests a replica takes: so many in the engine's batch, so many that wait, and not one more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from isthmus.errors.v1 import errors_pb2

from services.config import InferenceSettings
from services.errors import IsthmusError


class Slots:
    """The two bounds of a replica: requests it has accepted, and those of them in the engine."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._accepted_max = settings.requests_running_max + settings.requests_waiting_max
        self._engine = asyncio.Semaphore(settings.requests_running_max)
        self.accepted = 0

    @contextmanager
    def accept(self) -> Iterator[None]:
        """Counts a request from its arrival on; raises OVERLOADED with RetryInfo beyond the bound."""
        if self.accepted >= self._accepted_max:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_OVERLOADED,
                f"{self.accepted} requests are in work; expected at most {self._accepted_max}, come back later",
                retry_after_ms=self._settings.overload_retry_ms,
            )
        self.accepted += 1
        try:
            yield
        finally:
            self.accepted -= 1

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[None]:
        """Holds a place in the engine's batch, in order of arrival."""
        async with self._engine:
            yield
