"""The fair line before turns: who goes next, who is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from prometheus_client import CollectorRegistry

from gateway.limits.line import FairLine, LineFull, Turn
from gateway.limits.metrics import LimitMetrics
from gateway.limits.pace import Pace
from gateway.limits.queue import TurnQueue
from services.config import LimitsSettings
from services.errors import IsthmusError
from tests.support.eventually import eventually

TENANTS = ("a", "b", "c")
WIDE = LimitsSettings()
# A tenant asks for a turn of so many tokens (the first), or a turn leaves (the second).
steps = st.lists(
    st.tuples(st.sampled_from(TENANTS), st.integers(1, 100)) | st.integers(0, 50), min_size=1, max_size=120
)


def test_nobody_waits_while_there_are_places() -> None:
    line = FairLine(2, WIDE)
    assert [line.ask("a", 10, 0.0).placed_s for _ in range(3)] == [0.0, 0.0, None]


def test_who_sends_much_waits_behind_who_sends_little() -> None:
    line = FairLine(1, WIDE)
    running = line.ask("greedy", 100, 0.0)
    greedy = [line.ask("greedy", 100, 0.0) for _ in range(10)]
    modest = [line.ask("modest", 10, 0.0) for _ in range(2)]
    order = []
    while placed := line.leave(running, 0.0):
        (running,) = placed
        order.append(running)
    assert order == [*modest, *greedy]


def test_who_was_away_has_nothing_saved_up() -> None:
    line = FairLine(1, WIDE)
    running = line.ask("steady", 10, 0.0)
    steady = [line.ask("steady", 10, 0.0) for _ in range(20)]
    for _ in range(10):
        (running,) = line.leave(running, 0.0)
    late = [line.ask("late", 10, 0.0) for _ in range(5)]
    order = []
    while placed := line.leave(running, 0.0):
        (running,) = placed
        order.append(running.tenant)
    # By turns, from the moment on at which it came.
    assert order[:10].count("late") == 5
    assert all(turn.has_left for turn in (*steady, *late))


def test_who_gives_up_waiting_pays_nothing_for_it() -> None:
    line = FairLine(1, WIDE)
    running = line.ask("other", 10, 0.0)
    for _ in range(5):
        line.leave(line.ask("a", 1_000, 0.0), 0.0)
    mine, _ = line.ask("a", 10, 0.0), line.ask("other", 10, 0.0)
    assert line.leave(running, 0.0) == [mine]


@given(steps, st.integers(1, 4))
def test_of_two_that_wait_neither_is_served_more_but_for_one_turn_of_each(
    steps: list[tuple[str, int] | int], places: int
) -> None:
    """For each pair of tenants and each stretch in which both wait: theorem 1 of the paper, with equal weights."""
    line = FairLine(places, WIDE)
    under_way: list[Turn] = []
    waiting: list[Turn] = []
    served: list[tuple[Turn, frozenset[str]]] = []
    for step in steps:
        before = frozenset(turn.tenant for turn in waiting)
        if isinstance(step, tuple):
            turn = line.ask(*step, 0.0)
            (waiting if turn.placed_s is None else under_way).append(turn)
            if turn.placed_s is not None:
                served.append((turn, before))
        elif under_way or waiting:
            leaving = (under_way + waiting)[step % len(under_way + waiting)]
            (waiting if leaving in waiting else under_way).remove(leaving)
            for placed in line.leave(leaving, 0.0):
                served.append((placed, frozenset(turn.tenant for turn in waiting)))
                # Who is first in line goes first within a tenant.
                assert placed is next(turn for turn in waiting if turn.tenant == placed.tenant)
                waiting.remove(placed)
                under_way.append(placed)
        assert line.placed == len(under_way) <= places
        assert (line.waiting, line.waiting_tokens) == (len(waiting), sum(turn.tokens for turn in waiting))
        assert not waiting or len(under_way) == places
    largest = {name: max((turn.tokens for turn, _ in served if turn.tenant == name), default=0) for name in TENANTS}
    for one, other in (("a", "b"), ("b", "c"), ("a", "c")):
        balance: list[int] = []
        for turn, waited in served:
            if not {one, other} <= waited:
                balance = []
                continue
            change = turn.tokens * ((turn.tenant == one) - (turn.tenant == other))
            balance = [each + change for each in [*balance, 0]]
            assert all(abs(each) <= largest[one] + largest[other] for each in balance)


@given(st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 50)), min_size=1, max_size=60), st.integers(0, 200))
def test_nobody_starves(before: list[tuple[str, int]], crowd: int) -> None:
    """Whatever comes behind a turn, no other tenant is served more before it than one turn of its own."""
    line = FairLine(1, WIDE)
    running = line.ask("z", 1, 0.0)
    for tenant, tokens in before:
        line.ask(tenant, tokens, 0.0)
    mine = line.ask("mine", 40, 0.0)
    passed: Counter[str] = Counter()
    for number in range(crowd + len(before) + 2):
        if number < crowd:
            line.ask(TENANTS[number % 3], 30, 0.0)
        (running,) = line.leave(running, 0.0)
        if running is mine:
            break
        passed[running.tenant] += running.tokens
    assert mine.placed_s is not None
    assert all(tokens <= 1 + 50 for tokens in passed.values())


@given(steps)
def test_a_line_is_bounded_in_turns_and_tokens_by_tenant_and_together(steps: list[tuple[str, int] | int]) -> None:
    bounds = LimitsSettings(
        queue_turns_count_max=6, queue_tenant_turns_count_max=3, queue_tokens_max=250, queue_tenant_tokens_max=150
    )
    line = FairLine(1, bounds)
    turns: list[Turn] = []
    for step in steps:
        if not isinstance(step, tuple):
            if turns:
                line.leave(turns.pop(step % len(turns)), 0.0)
            continue
        try:
            turns.append(line.ask(*step, 0.0))
        except LineFull:
            with pytest.raises(LineFull):
                line.check(*step)
        waiting = [turn for turn in turns if turn.placed_s is None]
        assert len(waiting) <= 6
        assert sum(turn.tokens for turn in waiting) <= 250
        for tenant in TENANTS:
            mine = [turn.tokens for turn in waiting if turn.tenant == tenant]
            assert len(mine) <= 3
            assert sum(mine) <= 150


def test_a_turn_larger_than_the_bound_waits_where_nobody_else_does() -> None:
    line = FairLine(1, LimitsSettings(queue_tokens_max=10))
    line.ask("a", 1, 0.0)
    line.ask("a", 100, 0.0)
    with pytest.raises(LineFull, match="turns of 100 tokens wait, these 1 are over the bound"):
        line.ask("b", 1, 0.0)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=50), st.integers(0, 100), st.integers(1, 64))
def test_the_pace_is_that_of_the_last_turns(seconds: list[float], ahead: int, places: int) -> None:
    pace = Pace()
    assert pace.wait_s(ahead, places) is None
    for each in seconds:
        pace.ended(each)
    wait_s = pace.wait_s(ahead, places)
    assert wait_s
    assert min(seconds) * 0.999 <= wait_s * places / (ahead + 1) <= max(seconds) * 1.001


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_turn_waits_for_its_place_and_the_line_is_measured() -> None:
    registry, metrics = CollectorRegistry(), LimitMetrics()
    metrics.register(registry)
    queue = TurnQueue(1, WIDE, metrics, clock := Clock())
    order: list[str] = []

    async def turn(tenant: str) -> None:
        async with queue.place(tenant, 10, 60.0):
            order.append(tenant)

    async with queue.place("first", 100, 60.0):
        tasks = [asyncio.create_task(turn(tenant)) for tenant in ("first", "first", "second")]
        await eventually(lambda: registry.get_sample_value("isthmus_queue_turns") == 3, message="three wait")
        assert registry.get_sample_value("isthmus_queue_tokens") == 30
        gone = asyncio.create_task(turn("gone"))
        await eventually(lambda: registry.get_sample_value("isthmus_queue_turns") == 4, message="four wait")
        gone.cancel()
        clock.now_s = 2.0
    await asyncio.gather(*tasks)
    assert order == ["second", "first", "first"]
    assert registry.get_sample_value("isthmus_queue_turns") == 0
    assert registry.get_sample_value("isthmus_queue_wait_seconds_count") == 3


async def test_a_turn_that_would_come_too_late_is_refused_at_once() -> None:
    registry, metrics = CollectorRegistry(), LimitMetrics()
    metrics.register(registry)
    queue = TurnQueue(1, WIDE, metrics, clock := Clock())
    async with queue.place("a", 1, 60.0):
        clock.now_s = 3.0
    async with queue.place("a", 1, 60.0):
        with pytest.raises(IsthmusError, match=r"a turn waits some 3\.0 s here, and this one has 2\.0 s") as caught:
            queue.check("b", 1, clock.now_s + 2.0)
        assert (caught.value.reason, caught.value.retry_after_ms) == (errors_pb2.ERROR_REASON_OVERLOADED, 3_000)
        queue.check("b", 1, clock.now_s + 4.0)
    assert registry.get_sample_value("isthmus_queue_refusals_total", {"why": "slow"}) == 1


async def test_a_line_that_is_full_and_a_wait_that_is_too_long_are_refused() -> None:
    bounds = LimitsSettings(queue_turns_count_max=1, queue_wait_ms_max=20)
    queue = TurnQueue(1, bounds, LimitMetrics())
    async with AsyncExitStack() as places:
        loop = asyncio.get_running_loop()
        await places.enter_async_context(queue.place("a", 1, loop.time() + 60))
        late = asyncio.create_task(places.enter_async_context(queue.place("b", 1, loop.time() + 60)))
        await asyncio.sleep(0)
        with pytest.raises(IsthmusError, match="1 turns wait, which is the bound"):
            queue.check("c", 1, loop.time() + 60)
        with pytest.raises(IsthmusError, match=r"the turn waited .* for one of 1 places"):
            await late
        queue.check("c", 1, loop.time() + 60)
