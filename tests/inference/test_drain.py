"""Ready when warm, gone when done: what a replica finishes before it goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from isthmus.errors.v1 import errors_pb2

from inference.room import InferenceRoom
from services.config import Settings
from services.lifecycle import RoomContext, State
from tests.inference.items import item, manifest
from tests.inference.replica import error_of, running_replica
from tests.support.eventually import eventually

WINDOW = manifest([item("What has changed?")])


async def test_a_replica_is_ready_once_its_engine_has_made_a_reply(settings: Settings, cache_dir: Path) -> None:
    section = settings.inference.model_copy(update={"engine": "scripted", "cache_dir": cache_dir})
    room = InferenceRoom(
        context := RoomContext(settings.model_copy(update={"inference": section}), "replica-1", "127.0.0.1:0")
    )
    steps_when = dict[State, int]()
    context.lifecycle.watch(lambda state: steps_when.update({state: room.engine.steps if room.engine else 0}))
    try:
        await room.start()
        assert list(steps_when) == [State.READY]
        assert steps_when[State.READY] > 0
    finally:
        await room.stop()


async def test_draining_finishes_what_runs_and_what_waits(settings: Settings, cache_dir: Path) -> None:
    bounds = {"requests_running_max": 1, "scripted_tokens_per_s": 200}
    async with running_replica(settings, cache_dir, **bounds) as replica:
        line = replica.room.admission.queue.engine
        first = asyncio.create_task(replica.generate(WINDOW, "a"))
        await eventually(lambda: line.placed)
        second = asyncio.create_task(replica.generate(WINDOW, "b"))
        await eventually(lambda: line.waiting)
        draining = asyncio.create_task(replica.room.drain())
        await eventually(lambda: replica.context.lifecycle.state is State.DRAINING)
        refused = await error_of(replica.generate(WINDOW, "c"))
        assert refused.reason == errors_pb2.ERROR_REASON_NOT_READY
        assert not draining.done()
        replies = await asyncio.gather(first, second)
        assert [each.finished.output_tokens for each in replies] == [64, 64]
        assert replies[1].finished.queue_ms > 0
        await draining


async def test_draining_ends_when_its_time_is_over(settings: Settings, cache_dir: Path) -> None:
    hurried = settings.model_copy(update={"rpc": settings.rpc.model_copy(update={"drain_ms_max": 100})})
    bounds = {"requests_running_max": 1, "scripted_tokens_per_s": 1}
    async with running_replica(hurried, cache_dir, **bounds) as replica:
        calls = [asyncio.create_task(replica.generate(WINDOW, session)) for session in ("a", "b")]
        await eventually(lambda: replica.room.admission.queue.engine.waiting)
        await replica.room.drain()
        assert replica.room.admission.queue.accepted == len(calls)
        for each in calls:
            assert each.cancel(), "drained, and not done"
