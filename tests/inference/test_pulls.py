"""How many windows are read from shards at once, and who reads first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from isthmus.context.v1 import context_service_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from redis.asyncio import Redis

from services.config import Settings
from tests.inference.items import item, manifest
from tests.inference.replica import Replica, running_replica
from tests.inference.shard import WindowShard
from tests.support.eventually import eventually

ITEMS = [item(f"Line {number}.", sequence=number) for number in range(1, 9)]


class HeldShard(WindowShard):
    """A shard that lets a window go when the test says so."""

    def __init__(self, settings: Settings, valkey: Redis, member_id: str) -> None:
        super().__init__(settings, valkey, member_id)
        self.go_on = asyncio.Semaphore(0)

    async def ReadWindow(  # noqa: N802
        self, request: context_service_pb2.ReadWindowRequest, context: Any
    ) -> AsyncIterator[context_service_pb2.ReadWindowResponse]:
        is_first = True
        async for response in super().ReadWindow(request, context):
            if is_first:
                await self.go_on.acquire()
            is_first = False
            yield response

    @property
    def readers(self) -> list[str]:
        """Whose windows were asked for, in that order."""
        return [request.key.session for request in self.requests]


async def generate(replica: Replica, session: str, priority: int = 0, *, inline: bool = False) -> None:
    window = manifest(ITEMS, inline=inline)
    call = replica.stub.Generate(
        contract.GenerateRequest(tenant="t", session=session, manifest=window, priority=priority)
    )
    while await call.read() is not grpc.aio.EOF:
        continue


async def test_windows_are_read_in_turn_and_nobody_waits_who_needs_none(
    settings: Settings, valkey: Redis, cache_dir: Path
) -> None:
    # The stubs call every rpc of the contract abstract; this shard needs a single one.
    shard = HeldShard(settings, valkey, "shard-1")  # type: ignore[abstract]
    await shard.start()
    for session in ("first", "usual", "urgent", "gone"):
        shard.windows[session] = ITEMS
    async with running_replica(settings, cache_dir, pulls_concurrent_max=1) as replica:
        pulls = replica.room.admission.queue.pulls
        tasks = {}
        for session, priority in (("first", 0), ("gone", 0), ("usual", 0), ("urgent", -9)):
            tasks[session] = asyncio.create_task(generate(replica, session, priority))
            await eventually(lambda: pulls.placed + pulls.waiting == len(tasks))
        assert pulls.placed == 1
        await generate(replica, "hot", inline=True)
        assert not any(task.done() for task in tasks.values())
        tasks.pop("gone").cancel()
        await eventually(lambda: pulls.waiting == 2)
        assert shard.readers == ["first"]
        for _ in tasks:
            shard.go_on.release()
        await asyncio.gather(*tasks.values())
        assert shard.readers == ["first", "urgent", "usual"]
    await shard.stop()
