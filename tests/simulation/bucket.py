"""Objects in memory, behind a way that is slow and breaks: an answer that is lost says nothing of what was done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Final

from isthmus.errors.v1 import errors_pb2

from services.errors import IsthmusError, UpstreamUnavailable
from tests.simulation.trace import Trace

_PIECE_BYTES: Final = 256


class Bucket:
    """What all shards see. An object is there wholly or not at all."""

    def __init__(self, random: Random, trace: Trace) -> None:
        self._random = random
        self._trace = trace
        self.objects: dict[str, bytes] = {}
        self.loss = 0.0

    async def _trip(self) -> None:
        """One way, on which the connection may break."""
        await asyncio.sleep(self._random.uniform(0.0005, 0.05))
        if self._random.random() < self.loss:
            raise UpstreamUnavailable("the bucket does not answer")

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> None:
        data = b"".join([part async for part in parts])
        await self._trip()
        self.objects[name] = data
        self._trace.note("bucket", "put", name)
        await self._trip()

    async def get(self, name: str) -> AsyncIterator[bytes]:
        await self._trip()
        data = self.objects.get(name)
        if data is None:
            raise IsthmusError(errors_pb2.ERROR_REASON_CORRUPT, f"object {name} is not there")
        for at in range(0, len(data), _PIECE_BYTES):
            await self._trip()
            yield data[at : at + _PIECE_BYTES]

    async def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        data = b"".join([piece async for piece in self.get(name)])
        return [data[first:last] for first, last in spans]

    async def delete(self, name: str) -> int:
        await self._trip()
        size = len(self.objects.pop(name, b""))
        self._trace.note("bucket", "delete", name)
        await self._trip()
        return size
