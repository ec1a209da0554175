"""Deltas on their way out: those that an engine makes while its reader is busy with one become the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from isthmus.inference.v1 import inference_service_pb2

Delta = inference_service_pb2.GenerateResponse.Delta


@asynccontextmanager
async def merging(deltas: AsyncGenerator[Delta, None], count_max: int) -> AsyncIterator[AsyncGenerator[Delta, None]]:
    """Reads `deltas` from now on, in a task of its own; inside, what they say is read in as many parts as its reader's
    pace allows. Where `count_max` deltas wait for him, the engine does too.
    """
    merged = _Merged(count_max)
    reading = asyncio.create_task(merged.read(deltas), name="deltas")
    try:
        yield merged.parts()
    finally:
        reading.cancel()
        await asyncio.wait([reading])


class _Merged:
    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._texts: list[str] = []
        self._waiting: Delta | None = None
        self._is_ended = False
        self._error: BaseException | None = None
        # Who waits for the other one to move: the reader for a delta, the engine for room. Never both.
        self._moved: asyncio.Future[None] | None = None

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> None:
        """To the end, which the reader hears of, behind what came before it."""
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    self._add(delta)
                    while len(self._texts) >= self._count_max:
                        await self._other()
        except Exception as error:  # noqa: BLE001 - it is raised to the reader
            self._error = error
        finally:
            self._is_ended = True
            self._move()

    async def parts(self) -> AsyncGenerator[Delta, None]:
        """What waits, as soon as something does."""
        while True:
            if self._waiting is not None:
                yield self._taken(self._waiting)
            elif self._is_ended:
                if self._error is not None:
                    raise self._error
                return
            else:
                await self._other()

    def _add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        if self._waiting is None:
            self._waiting = delta
        else:
            # Of a text that would be the last one alone.
            self._waiting.MergeFrom(delta)
        self._move()

    def _taken(self, delta: Delta) -> Delta:
        if len(self._texts) > 1:
            delta.text = "".join(self._texts)
        self._texts.clear()
        self._waiting = None
        self._move()
        return delta

    async def _other(self) -> None:
        self._moved = asyncio.get_running_loop().create_future()
        await self._moved

    def _move(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None and not moved.done():
            moved.set_result(None)
