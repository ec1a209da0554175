"""The turns that this gateway drives, and the switch that stops each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from services.errors import IsthmusError

# Tenant, session id, turn number.
TurnKey: TypeAlias = tuple[str, str, int]


class Stop:
    """Ends a turn's generation from outside, once, with the error that its caller gets."""

    def __init__(self) -> None:
        self.reason: IsthmusError | None = None
        self._cancel: Callable[[], object] | None = None

    def pull(self, reason: IsthmusError) -> None:
        """Stops the turn; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self._cancel is not None:
                self._cancel()

    def check(self) -> None:
        """Raises the reason if the turn was stopped."""
        if self.reason is not None:
            raise self.reason

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """While inside, a stop also calls `cancel`."""
        self._cancel = cancel
        try:
            yield
        finally:
            self._cancel = None


class DrivenTurns:
    """The stop of each turn under way.

    `is_closing`: this gateway goes, and leaves the turns that it has not done to other drivers.
    """

    def __init__(self) -> None:
        self.is_closing = False
        self._stops: dict[TurnKey, Stop] = {}

    @contextmanager
    def driving(self, key: TurnKey, stop: Stop) -> Iterator[None]:
        """Registers a turn for as long as it is driven here."""
        self._stops[key] = stop
        try:
            yield
        finally:
            if self._stops.get(key) is stop:
                del self._stops[key]

    def stop(self, key: TurnKey, reason: IsthmusError) -> None:
        """Stops a turn, if it is driven here."""
        stop = self._stops.get(key)
        if stop is not None:
            stop.pull(reason)
