"""How sessions become objects while one looks on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from services.cli.errors import CliError

_POLL_S: Final = 0.5


class Cooling:
    """Counts the objects twice a second. `show` is told how many there are."""

    def __init__(self, count: Callable[[], Awaitable[int]], show: Callable[[int], object], stall_s_max: float) -> None:
        self._count = count
        self._show = show
        self._stall_s_max = stall_s_max
        # The time and the count before sessions first were objects, when nothing else was made any more, and last.
        self._first: tuple[float, int] | None = None
        self._alone: tuple[float, int] | None = None
        self._last = (time.monotonic(), 0)
        self._grown = asyncio.Condition()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Counts until its end."""
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(self._run())
            yield
            counting.cancel()

    def alone(self) -> None:
        """From now on the mesh does little else."""
        self._alone = self._last

    async def reached(self, wanted: int) -> None:
        """Returns once there are so many. Raises CliError when there have been no more for `stall_s_max`."""
        while self._last[1] < wanted:
            before = self._last[1]
            try:
                async with asyncio.timeout(self._stall_s_max), self._grown:
                    await self._grown.wait_for(lambda: self._last[1] > before)  # noqa: B023 - awaited at once
            except TimeoutError:
                raise CliError(
                    "BENCH_FAILED",
                    f"{before} of {wanted} sessions are objects and for {self._stall_s_max:.0f} s no more have become"
                    " one; look into the log in the benchmark's --home",
                ) from None

    def figures(self) -> dict[str, float]:
        """Sessions a second: from the first object to the last, and from when nothing else was made."""
        return {"frozen_per_s": self._rate(self._first), "frozen_alone_per_s": self._rate(self._alone)}

    def _rate(self, since: tuple[float, int] | None) -> float:
        if since is None or self._last[1] <= since[1]:
            return 0.0
        return round((self._last[1] - since[1]) / (self._last[0] - since[0]), 1)

    async def _run(self) -> None:
        while True:
            count = await self._count()
            if self._first is None and not count:
                self._last = (time.monotonic(), 0)
            if count > self._last[1]:
                self._first = self._first or self._last
                async with self._grown:
                    self._last = (time.monotonic(), count)
                    self._grown.notify_all()
                self._show(count)
            await asyncio.sleep(_POLL_S)
