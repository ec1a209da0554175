"""Waiting for what happens elsewhere: a condition with a deadline, never a fixed sleep."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_POLL_S = 0.01
# A machine with other work may take this long over what takes milliseconds; only a test that fails waits for its end.
WAIT_S_MAX = 30.0


@overload
async def eventually(condition: Callable[[], Awaitable[T]], timeout_s: float = ..., message: str = ...) -> T: ...


@overload
async def eventually(condition: Callable[[], T], timeout_s: float = ..., message: str = ...) -> T: ...


async def eventually(condition: Callable[[], Any], timeout_s: float = WAIT_S_MAX, message: str = "") -> Any:
    """Asks until the condition is truthy and returns what it said; AssertionError with its last answer after that.

    The condition may be a function or a coroutine function. What it raises is raised at once.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {message or condition}; last answer {value!r}")
        await asyncio.sleep(_POLL_S)
