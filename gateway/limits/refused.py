"""Callers that have no request left, so that they are refused again without a trip. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from services.limits.callers import Caller
from services.limits.standing import Obstacle, Reading, Standing, Way


class _Refused(NamedTuple):
    until_s: float
    obstacle: Obstacle
    # The refused caller's alone: who came with it is nobody else's business.
    reading: Reading


class RefusedCallers:
    """The `count_max` callers that were refused last, each until a request of it goes through again.

    Requests leak out of their meter alone and are never given back, so none of those that are refused here would have
    been let through there. It holds for limits as they are: `forget` when they have changed. Times are in seconds.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._refused: OrderedDict[tuple[str, str], _Refused] = OrderedDict()

    def __len__(self) -> int:
        return len(self._refused)

    def note(self, tenant: str, found: Sequence[Obstacle], standing: Standing, now_s: float) -> None:
        """What a call was refused for."""
        readings = {reading.caller: reading for reading in standing.readings}
        for each in found:
            if each.way is Way.REQUESTS and each.wait_ms is not None:
                key = (tenant, each.caller.part)
                self._refused[key] = _Refused(now_s + each.wait_ms / 1000, each, readings[each.caller])
                self._refused.move_to_end(key)
        while len(self._refused) > self._count_max:
            self._refused.popitem(last=False)

    def find(self, callers: Sequence[Caller], now_s: float) -> tuple[list[Obstacle], Standing] | None:
        """What is in the way of a request by these callers, the tenant first; None where nothing is known of."""
        if not self._refused:
            return None
        found: list[Obstacle] = []
        readings: list[Reading] = []
        for caller in callers:
            key = (callers[0].name, caller.part)
            known = self._refused.get(key)
            if known is None:
                continue
            if known.until_s <= now_s:
                del self._refused[key]
                continue
            wait_ms = max(1, round((known.until_s - now_s) * 1000))
            found.append(replace(known.obstacle, wait_ms=wait_ms))
            readings.append(known.reading)
        return (found, Standing(is_taken=False, readings=tuple(readings))) if found else None

    def forget(self) -> None:
        """Limits have changed."""
        self._refused.clear()
