"""One vLLM after another: where one has died, another one starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import structlog

from services.config import ConfigError
from services.errors import IsthmusError, UpstreamUnavailable

_log = structlog.get_logger("vllm")


class Core(Protocol):
    """A vLLM that was started."""

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""

    async def stop(self) -> None:
        """Ends its requests, and its process."""


CoreT = TypeVar("CoreT", bound=Core)


class Living(Generic[CoreT]):
    """Keeps one that `start` makes. `ended` is told of each before it is stopped."""

    def __init__(self, start: Callable[[], Awaitable[CoreT]], ended: Callable[[CoreT], None] | None = None) -> None:
        self.core: CoreT | None = None
        self._make = start
        self._ended = ended
        self._starting: asyncio.Task[CoreT] | None = None

    @property
    def is_loading(self) -> bool:
        """Whether one is being started."""
        return self._starting is not None

    async def start(self) -> CoreT:
        """The one that runs, or another; all who wait for that wait for the same. Raises what its start raises."""
        if self.core is not None and self.core.alive:
            return self.core
        starting = self._begin()
        # Not awaited: who waits here may go, and the start goes on; `stop` may cancel the start, and not who waits.
        await asyncio.wait([starting])
        if starting.cancelled():
            raise UpstreamUnavailable("the engine was stopped while it started")
        return starting.result()

    def lost(self, core: CoreT) -> None:
        """Has another one started where this one has died."""
        if core is self.core and not core.alive:
            self._begin()

    async def get(self) -> CoreT:
        """As `start`, for a request: UPSTREAM_UNAVAILABLE where there is none, and none starts."""
        try:
            return await self.start()
        except (IsthmusError, ConfigError) as error:
            raise UpstreamUnavailable(f"the engine is not there, and does not start: {error}") from error

    async def stop(self) -> None:
        """Ends it, or its start."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._end()

    def _begin(self) -> asyncio.Task[CoreT]:
        """The start that is under way, or one from now on."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="start vLLM")
            self._starting.add_done_callback(self._started)
        return self._starting

    async def _start(self) -> CoreT:
        await self._end()
        core = self.core = await self._make()
        return core

    def _started(self, starting: asyncio.Task[CoreT]) -> None:
        self._starting = None
        if not starting.cancelled() and (error := starting.exception()) is not None:
            _log.error("vLLM did not start", error=str(error))

    async def _end(self) -> None:
        core, self.core = self.core, None
        if core is not None:
            if self._ended is not None:
                self._ended(core)
            await core.stop()
