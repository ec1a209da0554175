"""The door to the engine: turns in order, deadlines, cancellation anywhere, and all put out together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from inference.admission import Admission, Stay
from inference.engine import EngineOutput
from services.config import InferenceSettings
from services.errors import IsthmusError
from services.rpc import deadlines
from tests.inference.replica import error_of
from tests.support.eventually import WAIT_S_MAX, eventually

RUNNING_MAX, PULLS_MAX = 2, 1


def admission(**changed: int) -> Admission:
    values = {"requests_running_max": RUNNING_MAX, "pulls_concurrent_max": PULLS_MAX}
    return Admission(InferenceSettings.model_validate(values | changed))


class Replies:
    """Requests that hold their places until they are told to end."""

    def __init__(self, door: Admission) -> None:
        self.door = door
        self.pulling: list[int] = []
        self.running: list[int] = []
        self.ended: list[int] = []
        self.go_on = [asyncio.Event() for _ in range(64)]

    async def run(self, number: int, priority: int = 0, patience_s: float | None = None) -> None:
        deadlines.enter(patience_s)
        with self.door.accept(priority) as stay:
            async with stay.pulling():
                self.pulling.append(number)
                await self.go_on[number].wait()
            self.go_on[number].clear()
            self.pulling.remove(number)
            async with stay.running(new_tokens=1, held_tokens=1):
                self.running.append(number)
                try:
                    await self.go_on[number].wait()
                finally:
                    self.running.remove(number)
            self.ended.append(number)


async def settle() -> None:
    """Lets everything happen that waits for nothing outside."""
    for _ in range(12):
        await asyncio.sleep(0)


@given(
    priorities=st.lists(st.integers(-2, 2), min_size=1, max_size=10),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 63)), max_size=40),
)
def test_whoever_goes_wherever_he_stands_gives_back_what_he_has(
    priorities: list[int], steps: list[tuple[bool, int]]
) -> None:
    async def scenario() -> None:
        replies = Replies(admission(requests_waiting_max=20))
        tasks = {number: asyncio.create_task(replies.run(number, each)) for number, each in enumerate(priorities)}
        cancelled = set[int]()
        for is_cancelled, which in steps:
            number = which % len(tasks)
            if is_cancelled:
                cancelled.add(number)
                tasks[number].cancel()
            else:
                replies.go_on[number].set()
            # At times the next thing happens before this one has been noticed.
            if which % 3:
                await settle()
            assert len(replies.running) <= RUNNING_MAX
        for _ in range(3 * len(tasks)):
            for each in replies.go_on:
                each.set()
            await settle()
        results = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), WAIT_S_MAX)
        for number, result in enumerate(results):
            assert result is None or (number in cancelled and isinstance(result, asyncio.CancelledError))
        queue = replies.door.queue
        assert (queue.accepted, queue.engine.placed, queue.engine.waiting) == (0, 0, 0)
        assert (queue.pulls.placed, queue.pulls.waiting, queue.engine.placed_tokens) == (0, 0, 0)

    asyncio.run(scenario())


async def test_the_urgent_begin_first() -> None:
    replies = Replies(admission(requests_running_max=1, pulls_concurrent_max=8))
    for each in replies.go_on:
        each.set()
    tasks = []
    for number, priority in enumerate((0, 5, 0, -5)):
        tasks.append(asyncio.create_task(replies.run(number, priority)))
        await settle()
    assert replies.running == [0]
    for _ in tasks:
        replies.go_on[replies.running[0]].set()
        await settle()
    await asyncio.gather(*tasks)
    assert replies.ended == [0, 3, 2, 1]


async def test_who_waits_past_his_deadline_never_begins() -> None:
    replies = Replies(admission(requests_running_max=1))
    replies.go_on[1].set()
    first = asyncio.create_task(replies.run(0))
    await settle()
    # In line for the window, then in line for the engine.
    error = await error_of(asyncio.create_task(replies.run(1, patience_s=0.05)))
    assert error.reason == errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED
    replies.go_on[0].set()
    await settle()
    assert replies.running == [0]
    error = await error_of(asyncio.create_task(replies.run(1, patience_s=0.05)))
    assert error.reason == errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED
    assert replies.door.queue.accepted == 1
    replies.go_on[0].set()
    await first
    assert replies.ended == [0]


async def test_a_refusal_says_when_to_come_back() -> None:
    door = admission(requests_running_max=1, requests_waiting_max=1, overload_retry_ms=70)
    with door.accept(), door.accept():
        with pytest.raises(IsthmusError) as caught, door.accept():
            pass
        assert (caught.value.reason, caught.value.retry_after_ms) == (errors_pb2.ERROR_REASON_OVERLOADED, 70)
    with door.accept():
        assert door.queue.accepted == 1


async def test_a_flood_of_tokens_is_refused_once_it_has_to_wait() -> None:
    door = admission(requests_running_max=1, waiting_tokens_max=10)
    replies: Any = [door.accept() for _ in range(4)]
    first, second, third, fourth = (each.__enter__() for each in replies)
    async with first.running(100, 100):
        waiting = [asyncio.create_task(enter(each, tokens)) for each, tokens in ((second, 8), (third, 2))]
        await settle()
        error = await error_of(asyncio.create_task(enter(fourth, 1)))
        assert error.reason == errors_pb2.ERROR_REASON_OVERLOADED
        assert "10 tokens wait for the engine" in error.message
    await asyncio.gather(*waiting)
    for each in replies:
        each.__exit__(None, None, None)


async def enter(stay: Stay, tokens: int) -> None:
    async with stay.running(tokens, tokens):
        pass


class Engine:
    """Outputs as a test lets them come."""

    def __init__(self) -> None:
        self.steps = asyncio.Semaphore(0)
        self.closed = 0

    async def generate(self) -> AsyncGenerator[EngineOutput, None]:
        try:
            while True:
                await self.steps.acquire()
                yield EngineOutput((1,))
        finally:
            self.closed += 1


async def read(door: Admission, engine: Engine, got: asyncio.Queue[EngineOutput]) -> None:
    """A request whose caller takes one output at a time; `got` holds at most one."""
    with door.accept() as stay:
        async with stay.running(1, 1):
            async for output in stay.outputs(engine.generate()):
                await got.put(output)


async def test_a_lost_engine_puts_all_out_wherever_they_stand() -> None:
    door, engine = admission(requests_running_max=2), Engine()
    slow_caller, caller = asyncio.Queue[EngineOutput](1), asyncio.Queue[EngineOutput]()
    slow = asyncio.create_task(read(door, engine, slow_caller))
    for _ in range(2):
        engine.steps.release()
    await eventually(slow_caller.full)
    await eventually(lambda: engine.steps.locked())
    awaiting = asyncio.create_task(read(door, engine, caller))
    in_line = asyncio.create_task(read(door, engine, caller))
    with door.accept() as assembling:
        await eventually(lambda: door.queue.engine.waiting)
        await settle()
        # The slow caller's request has its output, and waits for nobody but him.
        assert door.awaiting == 1
        door.close("the engine is lost")
        for task in (awaiting, in_line):
            error = await error_of(task)
            assert (error.reason, error.message) == (
                errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, "the engine is lost",
            )  # fmt: skip
        with pytest.raises(IsthmusError, match="the engine is lost"):
            await enter(assembling, 1)
        with pytest.raises(IsthmusError, match="the engine is lost"), door.accept():
            pass
    assert not slow.done()
    door.open()
    again = asyncio.create_task(read(door, engine, caller))
    await eventually(lambda: door.awaiting == 1)
    slow_caller.get_nowait()
    assert (await error_of(slow)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    engine.steps.release()
    assert await caller.get() == EngineOutput((1,))
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    assert engine.closed == 3
    assert door.queue.accepted == 0


async def test_who_stands_in_line_goes_when_the_engine_is_lost_though_no_place_is_free() -> None:
    door = admission(requests_running_max=1)
    with door.accept() as first, door.accept() as second:
        async with first.running(1, 1):
            waiting = asyncio.create_task(enter(second, 1))
            await eventually(lambda: door.queue.engine.waiting)
            door.close("the engine is lost")
            assert (await error_of(waiting)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE


async def test_an_engine_may_be_lost_in_the_moment_of_a_turn() -> None:
    door, engine = admission(requests_running_max=1), Engine()
    with door.accept() as first:
        async with first.running(1, 1):
            waiting = asyncio.create_task(read(door, engine, asyncio.Queue()))
            await eventually(lambda: door.queue.engine.waiting)
        # It has its place by now, and does not know yet.
        door.close("the engine is lost")
        assert door.queue.engine.placed == 1
    assert (await error_of(waiting)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert door.queue.engine.placed == 0


async def test_an_engines_own_timeout_is_not_taken_for_a_loss() -> None:
    async def outputs() -> AsyncGenerator[EngineOutput, None]:
        yield EngineOutput((1,))
        raise TimeoutError("its own")

    with admission().accept() as stay:
        with pytest.raises(TimeoutError, match="its own"):
            await read_all(stay.outputs(outputs()))
        assert not stay.is_awaiting


async def test_a_reply_that_is_whole_ends_the_outputs() -> None:
    async def outputs() -> AsyncGenerator[EngineOutput, None]:
        yield EngineOutput((1,))
        yield EngineOutput((2,))

    with admission().accept() as stay:
        assert [each.token_ids for each in await read_all(stay.outputs(outputs()))] == [(1,), (2,)]


async def read_all(outputs: AsyncGenerator[EngineOutput, None]) -> list[EngineOutput]:
    return [each async for each in outputs]
