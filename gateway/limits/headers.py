"""What is left to a call's callers, in the headers that OpenAI's API has for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from services.limits.meter import Meter
from services.limits.standing import Standing


def headers(standing: Standing | None) -> dict[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, of whichever caller has the least left of each."""
    if standing is None or not standing.readings:
        return {}
    now_us = standing.readings[0].now_us
    told: dict[str, str] = {}
    for what, meters in (
        ("requests", [reading.requests for reading in standing.readings]),
        ("tokens", [reading.tokens for reading in standing.readings]),
    ):
        meter = _tightest(meters, now_us)
        if meter is not None:
            told[f"x-ratelimit-limit-{what}"] = str(meter.limit)
            told[f"x-ratelimit-remaining-{what}"] = str(meter.remaining(now_us))
            told[f"x-ratelimit-reset-{what}"] = span(meter.reset_us(now_us) // 1000)
    return told


def span(ms: int) -> str:
    """A span as OpenAI writes it: `6m0s`, `1.5s`, `120ms`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _tightest(meters: Iterable[Meter | None], now_us: int) -> Meter | None:
    there = [meter for meter in meters if meter is not None]
    return min(there, key=lambda meter: (meter.remaining(now_us), meter.limit), default=None)
