"""Two calls that race for the first text: who wins, what is raised, and that nobody is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.turn.attempt import Attempt, first_to_answer
from services.errors import IsthmusError, UpstreamUnavailable

NEVER = 3_600.0


class Runner:
    """Stands for an attempt that has its text, or an error, when `go` is set."""

    def __init__(self, name: str, *, fails: bool = False, at_once: bool = False) -> None:
        self.name = name
        self.go = asyncio.Event()
        self.closed: list[bool] = []
        self._fails = fails
        if at_once:
            self.go.set()

    async def start(self) -> None:
        await self.go.wait()
        if self._fails:
            raise UpstreamUnavailable(self.name)

    def close(self, *, has_lost: bool = False) -> None:
        self.closed.append(has_lost)


async def raced(first: Runner, after_s: float, second: Callable[[], Runner | None]) -> Runner:
    return cast("Runner", await first_to_answer(cast("Attempt", first), after_s, cast("Any", second)))


async def test_a_call_that_answers_in_time_has_no_company() -> None:
    first = Runner("first", at_once=True)
    assert await raced(first, NEVER, lambda: pytest.fail("nobody was slow")) is first
    assert first.closed == []


async def test_the_faster_one_wins_and_the_other_is_closed() -> None:
    first, second = Runner("first"), Runner("second", at_once=True)
    assert await raced(first, 0.0, lambda: second) is second
    assert (first.closed, second.closed) == ([True], [])


async def test_where_one_fails_the_other_is_waited_for() -> None:
    first, second = Runner("first"), Runner("second", fails=True, at_once=True)

    def hedge() -> Runner:
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(first.go.set))
        return second

    assert await raced(first, 0.0, hedge) is first
    assert (first.closed, second.closed) == ([], [False])


async def test_where_there_is_no_company_the_slow_one_is_waited_for() -> None:
    first = Runner("first")
    race = asyncio.create_task(raced(first, 0.0, lambda: None))
    asyncio.get_running_loop().call_soon(first.go.set)
    assert await race is first


@given(st.booleans())
async def test_where_all_fail_the_error_is_raised_and_all_are_closed(has_company: bool) -> None:
    first = Runner("first", fails=True)
    second = Runner("second", fails=True, at_once=True)

    def hedge() -> Runner | None:
        asyncio.get_running_loop().call_soon(first.go.set)
        return second if has_company else None

    with pytest.raises(IsthmusError):
        await raced(first, 0.0, hedge)
    assert first.closed == [False]
    assert second.closed == ([False] if has_company else [])


async def test_who_leaves_leaves_nobody_behind() -> None:
    first, second = Runner("first"), Runner("second")
    has_company = asyncio.Event()

    def hedge() -> Runner:
        has_company.set()
        return second

    race = asyncio.create_task(raced(first, 0.0, hedge))
    await has_company.wait()
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    assert (first.closed, second.closed) == ([False], [False])
    assert not [task for task in asyncio.all_tasks() if task.get_name() in ("first attempt", "hedge")]
