"""The caller's deadline, carried from the rpc being served to the calls that it makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("isthmus_deadline", default=None)


def enter(remaining_s: float | None) -> None:
    """Makes the rpc's remaining seconds the deadline of its task; None for an rpc without one."""
    _deadline.set(None if remaining_s is None else time.monotonic() + remaining_s)


def remaining_s() -> float | None:
    """Seconds until the deadline of the rpc being served, never below 0; None where there is none."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@contextmanager
def without_deadline() -> Iterator[None]:
    """For work that outlives its caller: calls made inside, and tasks started inside, inherit no deadline."""
    token = _deadline.set(None)
    try:
        yield
    finally:
        _deadline.reset(token)
