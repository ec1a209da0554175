"""Stuck engines: judged by their steps, put out, started again, and given up on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc
from redis.asyncio import Redis

from inference.admission import Admission
from inference.engine import EngineOutput, EngineRequest, Sampling
from inference.engines.local import LocalEngine
from inference.metrics import InferenceMetrics
from inference.standing import Standing
from inference.watchdog import EngineLost, StallJudge, Watchdog
from inference.windows import Window
from services.config import InferenceSettings, Settings
from services.errors import IsthmusError
from services.lifecycle import Lifecycle, State
from services.membership import View
from tests.inference.items import item, manifest
from tests.inference.replica import Replica, error_of, running_replica
from tests.support.eventually import eventually
from tests.support.ports import free_port

STALL_S = 8.0
LOOK_S = 1.0
EMPTY = np.zeros(0, dtype=np.int32)
REQUEST = EngineRequest(EMPTY, EMPTY, (Window().end,), "", Sampling(1))


def settings(**changed: int) -> InferenceSettings:
    values = {"engine_stall_ms_max": int(STALL_S * 1000), "engine_restarts_count_max": 2, **changed}
    return InferenceSettings.model_validate(values)


MOSTLY = st.integers(0, 9).map(bool)


@given(st.lists(st.tuples(MOSTLY.map(lambda often: not often), MOSTLY), max_size=60))
def test_an_engine_is_stuck_when_its_steps_stand_still_for_all_that_time_with_requests_waiting(
    looks: list[tuple[bool, bool]],
) -> None:
    judge, now_s, steps = StallJudge(settings()), 0.0, 0
    stalled, was_awaited = 0, False
    assert judge.look_s == LOOK_S
    judge.look(now_s, steps, is_awaited=False)
    for has_stepped, is_awaited in looks:
        now_s += LOOK_S
        steps += has_stepped
        stalled = 0 if has_stepped else stalled + (is_awaited and was_awaited)
        was_awaited = is_awaited
        assert judge.look(now_s, steps, is_awaited=is_awaited) == (stalled >= STALL_S / LOOK_S)


@given(st.lists(st.tuples(st.booleans(), MOSTLY), max_size=60))
def test_an_engine_that_loads_has_as_long_as_a_start_may_take(looks: list[tuple[bool, bool]]) -> None:
    judge, now_s = StallJudge(settings(engine_start_ms_max=int(3 * STALL_S * 1000))), 0.0
    stalled, before = 0, (False, False)
    judge.look(now_s, 7, is_awaited=False)
    for is_awaited, is_loading in looks:
        now_s += LOOK_S
        was_awaited, was_loading = before
        if is_loading != was_loading:
            stalled = 0
        else:
            stalled += is_loading or (is_awaited and was_awaited)
        before = (is_awaited, is_loading)
        limit = (3 if is_loading else 1) * STALL_S / LOOK_S
        assert judge.look(now_s, 7, is_awaited=is_awaited, is_loading=is_loading) == (stalled >= limit)


def test_callers_who_come_and_go_do_not_hide_a_stuck_engine() -> None:
    judge = StallJudge(settings())
    verdicts = [judge.look(look * LOOK_S, 7, is_awaited=look % 4 > 0) for look in range(20)]
    # Between two looks of four there was somebody all the time.
    assert verdicts.index(True) == 2 * STALL_S - 1
    assert verdicts[-1]


@given(st.floats(1, 1_000))
def test_a_process_that_stood_still_itself_does_not_blame_the_engine(gap_s: float) -> None:
    judge = StallJudge(settings())
    judge.look(0.0, 7, is_awaited=True)
    assert not judge.look(gap_s, 7, is_awaited=True)


def test_restarts_are_counted_within_a_time() -> None:
    judge = StallJudge(settings(engine_restart_window_ms=10_000))
    assert [judge.restart(second) for second in (0.0, 4.0, 9.9, 10.0, 13.9, 14.0)] == [
        True, True, False, True, False, True,
    ]  # fmt: skip


def test_a_restarted_engine_begins_anew() -> None:
    judge = StallJudge(settings())
    assert [judge.look(look, 0, is_awaited=True) for look in range(9)].index(True) == STALL_S
    judge.restart(9.0)
    assert not judge.look(9.0, 0, is_awaited=True)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_ready_process_without_an_engine_shows_that_it_starts(is_there: bool) -> None:
    process = Lifecycle()
    standing, seen = Standing(process), list[State]()
    standing.watch(seen.append)
    standing.show_engine(is_there=is_there)
    shown = State.READY if is_there else State.STARTING
    for state, expected in ((State.READY, shown), (State.DRAINING, State.DRAINING), (State.STOPPED, State.STOPPED)):
        standing.move(state)
        assert (process.state, standing.state) == (state, expected)
    assert seen == [shown, State.DRAINING, State.STOPPED]


def test_an_engine_that_goes_and_comes_is_shown_once_each() -> None:
    process = Lifecycle()
    standing, seen = Standing(process), list[State]()
    standing.watch(seen.append)
    process.move(State.READY)
    for is_there in (True, False, False, True):
        standing.show_engine(is_there=is_there)
    assert seen == [State.READY, State.STARTING, State.READY]


class StuckEngine:
    """An engine that never makes a step until it was started `starts_until_well` times, and may fail at that."""

    model = "stuck"
    context_tokens_max = 1_000
    adapters: tuple[str, ...] = ()
    samples: frozenset[str] = frozenset()
    running = 0
    is_loading = False

    def __init__(self, starts_until_well: int = 1, failing_starts: int = 0) -> None:
        self.steps = 0
        self.starts = 0
        self.stops = 0
        self._starts_until_well = starts_until_well
        self._failing_starts = failing_starts

    async def start(self) -> None:
        self.starts += 1
        if self.starts <= self._failing_starts:
            raise OSError("no memory")
        self.is_loading = False

    async def stop(self) -> None:
        self.stops += 1

    async def forget(self, session: str) -> int:
        return 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        if self.is_loading or self.starts < self._starts_until_well:
            await asyncio.Event().wait()
        self.steps += 1
        yield EngineOutput((1,))


class Watched:
    """A stuck engine under a watchdog, with a door and a standing."""

    def __init__(self, engine: StuckEngine, **changed: int) -> None:
        self.engine = engine
        self.ends = 0
        self.warmed = 0
        limits = settings(**{"engine_stall_ms_max": 200, **changed})
        self.door = Admission(limits)
        self.process = Lifecycle()
        self.standing = Standing(self.process)
        self.process.move(State.READY)
        metrics = InferenceMetrics("stuck", "local")
        self.metrics = metrics
        self.dog = Watchdog(engine, self._warm, self.door, self.standing, metrics, limits, self._end)

    async def _warm(self) -> None:
        self.warmed += 1

    def _end(self) -> None:
        self.ends += 1

    async def ask(self) -> EngineOutput:
        with self.door.accept() as stay:
            async with stay.running(1, 1):
                return await anext(stay.outputs(self.engine.generate(REQUEST)))

    @property
    def restarts(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "isthmus_inference_engine_restarts_total", {"model": "stuck", "engine": "local"}
        )


@asynccontextmanager
async def watched(engine: StuckEngine, **changed: int) -> AsyncIterator[Watched]:
    under = Watched(engine, **changed)
    await under.dog.start()
    yield under
    await under.dog.stop()


async def test_a_stuck_engine_is_started_again_after_its_requests_are_put_out() -> None:
    async with watched(StuckEngine(starts_until_well=2, failing_starts=1)) as under:
        seen = list[State]()
        under.standing.watch(seen.append)
        error = await error_of(under.ask())
        assert error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        # The first start failed, and counts.
        await eventually(lambda: under.standing.state is State.READY)
        assert (under.engine.starts, under.engine.stops, under.warmed, under.restarts) == (2, 2, 1, 2)
        assert seen == [State.STARTING, State.READY]
        assert await under.ask() == EngineOutput((1,))
        under.dog.check()


async def test_an_engine_that_loads_is_passed_over_and_left_alone_until_a_start_takes_too_long() -> None:
    engine = StuckEngine()
    engine.is_loading = True
    async with watched(engine, engine_start_ms_max=1_000) as under:
        seen = list[State]()
        under.standing.watch(seen.append)
        began_s = time.monotonic()
        await eventually(lambda: under.standing.state is State.STARTING)
        error = await error_of(under.ask())
        assert error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert time.monotonic() - began_s > 0.8, "not after the 200 ms that an engine may stand still"
        await eventually(lambda: under.standing.state is State.READY)
        assert (engine.starts, under.restarts, seen) == (1, 1, [State.STARTING, State.READY])


async def test_an_engine_that_has_loaded_is_shown_again() -> None:
    engine = StuckEngine()
    engine.is_loading = True
    async with watched(engine) as under:
        await eventually(lambda: under.standing.state is State.STARTING)
        engine.is_loading = False
        await eventually(lambda: under.standing.state is State.READY)
        assert (engine.starts, under.restarts) == (0, 0)


@pytest.mark.parametrize("failing_starts", [0, 9])
async def test_one_that_cannot_be_brought_back_ends_the_process(failing_starts: int) -> None:
    async with watched(StuckEngine(starts_until_well=9, failing_starts=failing_starts)) as under:

        async def ask_until_the_end() -> bool:
            await error_of(under.ask())
            return bool(under.ends)

        await eventually(ask_until_the_end)
        assert (under.ends, under.engine.starts) == (1, 2)
        assert under.standing.state is State.STARTING
        with pytest.raises(EngineLost, match="restarts: 2 in 3600000 ms"):
            under.dog.check()
        assert (await error_of(under.ask())).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE


async def test_a_process_that_drains_lets_a_stuck_engine_be() -> None:
    async with watched(StuckEngine()) as under:
        asking = asyncio.create_task(under.ask())
        await eventually(lambda: under.door.awaiting)
        under.process.move(State.DRAINING)
        assert (await error_of(asking)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert (under.engine.starts, under.ends) == (0, 0)


STORY = [item("Tell me a very long story about a lighthouse keeper, in every detail.")]


async def frozen(call: Any, worker_pid: Callable[[], int]) -> IsthmusError:
    """Stops the worker in the middle of a reply; the error that the reply ends with."""
    while not (await call.read()).HasField("delta"):
        continue
    os.kill(worker_pid(), signal.SIGSTOP)

    async def rest() -> None:
        while await call.read() is not grpc.aio.EOF:
            continue

    return await error_of(rest())


def worker_of(replica: Replica) -> int:
    assert isinstance(replica.engine, LocalEngine)
    assert replica.engine.worker is not None
    return replica.engine.worker.pid


@pytest.mark.timeout(300)
async def test_a_frozen_worker_is_replaced_and_the_next_request_is_served(
    settings: Settings, cache_dir: Path, valkey: Redis
) -> None:
    view = View(valkey, settings.membership)
    await view.start()
    async with running_replica(settings, cache_dir, engine="local", engine_stall_ms_max=3_000) as replica:
        await view.wait_for("inference")
        before = worker_of(replica)
        call = replica.call(manifest(STORY), max_output_tokens=4_000, temperature=1.0)
        freezing = asyncio.create_task(frozen(call, lambda: before))
        await eventually(lambda: not view.ready("inference"), timeout_s=30, message="gateways see it go")
        assert [each.state for each in view.members("inference")] == [State.STARTING]
        error = await freezing
        assert error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        async with asyncio.timeout(60):
            await view.wait_for("inference")
        assert worker_of(replica) != before
        answer = await replica.generate(manifest([item("What is the capital of France?")]), temperature=0.0)
        assert "Paris" in answer.text
    await view.stop()


@pytest.mark.timeout(300)
async def test_a_process_whose_engine_is_lost_ends_with_an_error(settings: Settings, cache_dir: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "inference", "--member", "replica-1", "--listen", endpoint,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "ISTHMUS_VALKEY__URL": settings.valkey.url,
            "ISTHMUS_INFERENCE__ENGINE": "local",
            "ISTHMUS_INFERENCE__CACHE_DIR": str(cache_dir),
            "ISTHMUS_INFERENCE__ENGINE_STALL_MS_MAX": "3000",
            "ISTHMUS_INFERENCE__ENGINE_RESTARTS_COUNT_MAX": "0",
        },
    )  # fmt: skip
    try:
        async with grpc.aio.insecure_channel(endpoint) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

            async def is_ready() -> bool:
                try:
                    await stub.GetModel(contract.GetModelRequest())
                except grpc.aio.AioRpcError:
                    return False
                return True

            await eventually(is_ready, timeout_s=120)
            request = contract.GenerateRequest(tenant="t", session="s", manifest=manifest(STORY))
            request.params.max_output_tokens = 4_000
            error = await frozen(stub.Generate(request), lambda: child_of(process.pid))
            assert error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert b"the engine is stuck" in output
        assert b"engine_restarts_count_max" in output
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
