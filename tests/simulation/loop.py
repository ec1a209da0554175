"""An event loop without I/O: its clock is virtual and jumps to what is due next, so a run is a function of its seed.

What is ready runs in the order in which it became ready, as asyncio promises. Which order that is, is decided by the
latencies that the seed draws for every message; the loop's own queue is left alone: code may rest on that promise.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from asyncio.base_events import BaseEventLoop
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final
from unittest import mock

EPOCH_S: Final = 1_700_000_000


class DeadlockError(Exception):
    """Tasks are waiting and nothing will ever happen."""


class VirtualLoop(BaseEventLoop):
    """`time` is in virtual seconds from 0 on."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        # Of a process that died nobody holds the tasks: collected as garbage they would end at any moment.
        self._alive = set[asyncio.Task[Any]]()
        self.set_task_factory(self._task)
        # BaseEventLoop waits by these three alone.
        self._selector = self

    def _task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        self._alive.add(task)
        task.add_done_callback(self._alive.discard)
        return task

    def time(self) -> float:
        return self._now_s

    def select(self, timeout_s: float | None) -> list[object]:
        """Waits, which takes no time."""
        if timeout_s is None:
            raise DeadlockError("nothing is ready and nothing is scheduled")
        self._now_s += timeout_s
        return []

    def _process_events(self, events: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def finish(self) -> None:
        """Ends every task, then the loop."""

        async def end() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self.run_until_complete(end())
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


@contextmanager
def determined(loop: VirtualLoop, random: Random) -> Iterator[None]:
    """Clocks are the loop's and random tokens are the seed's for all code that runs inside."""

    def seconds() -> float:
        return EPOCH_S + loop.time()

    def nanoseconds() -> int:
        return int(seconds() * 1e9)

    with (
        mock.patch.object(time, "time", seconds),
        mock.patch.object(time, "time_ns", nanoseconds),
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(time, "perf_counter", loop.time),
        mock.patch.object(secrets, "token_bytes", lambda count=32: random.randbytes(count)),
        mock.patch.object(secrets, "token_hex", lambda count=32: random.randbytes(count).hex()),
    ):
        yield
