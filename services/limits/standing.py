"""What the meters of a call's callers say: whether it goes through, what is left, when to come again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from isthmus.errors.v1 import errors_pb2

from services.errors import IsthmusError, QuotaViolation
from services.limits.callers import Caller
from services.limits.meter import Meter
from services.limits.money import money

_READING_FIELDS: Final = 6


class Way(IntFlag):
    """Limits that are in the way, as the script counts them."""

    REQUESTS = 1
    TOKENS = 2
    TURNS = 4
    BUDGET = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call takes: a request, tokens that have to be computed, and money."""

    requests: int = 1
    tokens: int = 0
    micros: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One caller's meters at `now_us`, after what was taken; `turns_end_us` is the end of the first turn's lease."""

    caller: Caller
    now_us: int
    refused: Way
    requests_level: int
    tokens_level: int
    turns: int
    turns_end_us: int
    micros: int

    @property
    def requests(self) -> Meter | None:
        """The meter of requests, where they have a limit."""
        limit = self.caller.limits.requests_per_minute
        return None if limit is None else Meter(limit, self.requests_level, self.now_us)

    @property
    def tokens(self) -> Meter | None:
        """The meter of tokens, where they have a limit."""
        limit = self.caller.limits.tokens_per_minute
        return None if limit is None else Meter(limit, self.tokens_level, self.now_us)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a call stands with all of its callers."""

    is_taken: bool
    readings: tuple[Reading, ...]

    @classmethod
    def parse(cls, callers: Sequence[Caller], answer: Sequence[int]) -> Standing:
        """What `meters.lua` has answered."""
        is_taken, now_us, *flat = answer
        readings = []
        for index, caller in enumerate(callers):
            way, *levels = flat[index * _READING_FIELDS : (index + 1) * _READING_FIELDS]
            readings.append(Reading(caller, now_us, Way(way), *levels))
        return cls(bool(is_taken), tuple(readings))


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One limit that is in the way; `wait_ms` is None where waiting does not help this month."""

    caller: Caller
    way: Way
    wait_ms: int | None
    description: str


def obstacles(standing: Standing, cost: Cost, turn_wait_ms: int) -> list[Obstacle]:
    """Every limit that refuses the cost. When a turn ends nobody knows: `turn_wait_ms` is said of those."""
    found = []
    for reading in standing.readings:
        limits, caller = reading.caller.limits, reading.caller
        if Way.BUDGET in reading.refused:
            spent, budget = money(reading.micros), money(limits.budget_monthly_micros or 0)
            told = f"budget of the month: {spent} of {budget} spent, this is some {money(cost.micros)}"
            found.append(Obstacle(caller, Way.BUDGET, None, told))
        if Way.REQUESTS in reading.refused and (meter := reading.requests):
            found.append(_metered(reading, Way.REQUESTS, meter, cost.requests))
        if Way.TOKENS in reading.refused and (meter := reading.tokens):
            found.append(_metered(reading, Way.TOKENS, meter, cost.tokens))
        if Way.TURNS in reading.refused:
            told = f"concurrent turns: {reading.turns} of {limits.turns_concurrent} are under way"
            found.append(Obstacle(caller, Way.TURNS, turn_wait_ms, told))
    return found


def refusal(found: Sequence[Obstacle]) -> IsthmusError:
    """The error: of a budget if one is in the way, else of the limit that takes longest."""
    first = max(found, key=lambda each: (each.wait_ms is None, each.wait_ms or 0))
    quotas = [QuotaViolation(each.caller.label, each.description) for each in found]
    metadata = {"limit": _NAMES[first.way], "of": first.caller.kind.value}
    if first.wait_ms is None:
        message = f"{first.caller.label}: {first.description}; the next month has another"
        return IsthmusError(errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED, message, metadata=metadata, quotas=quotas)
    message = f"{first.caller.label}: {first.description}; come again in {first.wait_ms / 1000:.3g} s"
    reason = errors_pb2.ERROR_REASON_RATE_LIMITED
    return IsthmusError(reason, message, metadata=metadata, retry_after_ms=first.wait_ms, quotas=quotas)


_NAMES: Final = {
    Way.REQUESTS: "requests_per_minute",
    Way.TOKENS: "tokens_per_minute",
    Way.TURNS: "turns_concurrent",
    Way.BUDGET: "budget_monthly",
}


def _metered(reading: Reading, way: Way, meter: Meter, amount: int) -> Obstacle:
    what = "requests" if way is Way.REQUESTS else "tokens"
    left = meter.remaining(reading.now_us)
    told = f"{what} per minute: {left} of {meter.limit} are left, this takes {amount}"
    return Obstacle(reading.caller, way, -(-meter.wait_us(reading.now_us, amount) // 1000), told)
