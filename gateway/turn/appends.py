"""Pieces of output on their way to the shards: those of all turns under way in one call at a time, to each shard."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from isthmus.context.v1 import context_service_pb2

from gateway.retry import retrying
from gateway.shards import Shard, Shards
from gateway.turn.calls import Errand
from services.config import GatewaySettings
from services.errors import IsthmusError

Entry: TypeAlias = context_service_pb2.AppendOutputRequest.Entry
Result: TypeAlias = context_service_pb2.AppendOutputResponse.Result

# The contract's bounds of one call.
_ENTRIES_COUNT_MAX: Final = 256
_BYTES_MAX: Final = 1 << 20


@dataclass(slots=True)
class _Line:
    """What waits for a shard while a call to it is under way. A turn has one entry in it at most."""

    waiting: deque[tuple[Entry, asyncio.Future[Result]]] = field(default_factory=deque)
    sending: asyncio.Task[None] | None = None

    def take(self) -> list[tuple[Entry, asyncio.Future[Result]]]:
        batch: list[tuple[Entry, asyncio.Future[Result]]] = []
        size = 0
        while self.waiting and len(batch) < _ENTRIES_COUNT_MAX:
            size += self.waiting[0][0].ByteSize()
            if batch and size > _BYTES_MAX:
                break
            batch.append(self.waiting.popleft())
        return batch


class OutputAppends:
    """Adds to the output of turns. The busier the gateway, the more of them share a call and a trip to Valkey."""

    def __init__(self, shards: Shards, settings: GatewaySettings) -> None:
        self._shards = shards
        self._settings = settings
        self._lines: dict[str, _Line] = {}

    async def append(self, errand: Errand, entry: Entry, until: float) -> int:
        """How many pieces the turn has then, fewer than the first one's number where some before it are missing.

        A shard that is away is waited for until `until` (time.monotonic()). Raises LEASE_LOST, TURN_CANCELLED,
        TURN_STATE or NOT_FOUND where the turn is no longer the caller's.
        """

        async def attempt() -> int:
            shard = self._shards.owner(errand.tenant, errand.session)
            result = await self._sent(shard, entry)
            if result.reason:
                raise IsthmusError(result.reason, result.message)
            return result.piece_count

        return await retrying(attempt, self._settings, until - time.monotonic())

    async def _sent(self, shard: Shard, entry: Entry) -> Result:
        line = self._lines.setdefault(shard.member_id, _Line())
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        line.waiting.append((entry, answer))
        if line.sending is None:
            # Of all turns, so with the deadline and the trace of none.
            line.sending = asyncio.create_task(self._send(shard, line), name="append output", context=Context())
        return await answer

    async def _send(self, shard: Shard, line: _Line) -> None:
        try:
            while line.waiting:
                await self._send_batch(shard, line.take())
        finally:
            del self._lines[shard.member_id]

    async def _send_batch(self, shard: Shard, batch: list[tuple[Entry, asyncio.Future[Result]]]) -> None:
        request = context_service_pb2.AppendOutputRequest(entries=[entry for entry, _ in batch])
        until = time.monotonic() + self._settings.store_call_ms_max / 1000
        try:
            results = (await self._shards.send(lambda stub: stub.AppendOutput, shard, request, until)).results
        except IsthmusError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), result in zip(batch, results, strict=True):
            if not answer.done():
                answer.set_result(result)
