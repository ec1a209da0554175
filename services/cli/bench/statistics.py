"""What a list of measurements says: percentiles, and the figures of a point of the benchmark. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

from isthmus.session.v1 import turn_pb2

CLIENT_GATEWAY = "client.gateway"
ENGINE = "inference.engine"


@dataclass(frozen=True, slots=True)
class TurnSample:
    """One turn as its client saw it. `bytes_by_hop` counts serialised payload in both directions."""

    overhead_ms: float
    window_tokens: int
    new_tokens: int
    bytes_by_hop: Mapping[str, int]
    ms_by_leg: Mapping[str, float]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank).

    Raises ValueError without values, or for a share that is not in (0, 1].
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("values: expected at least one")
    if not 0 < share <= 1:
        raise ValueError(f"share: expected more than 0 and at most 1, got {share}")
    return ordered[ceil(share * len(ordered)) - 1]


def sample(wall_ms: float, client_bytes: int, hops: Iterable[turn_pb2.Hop], tokens: turn_pb2.TokenCounts) -> TurnSample:
    """A turn's sample: overhead is what the client waited, less what the engine took."""
    sizes: Counter[str] = Counter({CLIENT_GATEWAY: client_bytes})
    times: defaultdict[str, float] = defaultdict(float)
    engine_ms = 0.0
    for hop in hops:
        sizes[hop.name] += hop.bytes_sent + hop.bytes_received
        times[f"{hop.name} {hop.operation}"] += hop.duration_ms
        engine_ms += hop.duration_ms if hop.name == ENGINE else 0.0
    return TurnSample(
        overhead_ms=wall_ms - engine_ms,
        window_tokens=tokens.window_tokens,
        new_tokens=tokens.new_tokens,
        bytes_by_hop={name: size for name, size in sizes.items() if name != ENGINE},
        ms_by_leg=times,
    )


def point(history_tokens: int, samples: Sequence[TurnSample]) -> dict[str, Any]:
    """The figures of one history length over its turns; bytes and milliseconds of hops are medians."""
    overheads = [each.overhead_ms for each in samples]
    return {
        "history_tokens": history_tokens,
        "window_tokens": [samples[0].window_tokens, samples[-1].window_tokens],
        "new_tokens_p50": median(each.new_tokens for each in samples),
        "overhead_ms_p50": round(percentile(overheads, 0.5), 3),
        "overhead_ms_p99": round(percentile(overheads, 0.99), 3),
        "bytes_by_hop": {name: round(value) for name, value in _medians(each.bytes_by_hop for each in samples).items()},
        "ms_by_leg": {name: round(value, 3) for name, value in _medians(each.ms_by_leg for each in samples).items()},
    }


def ratio(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median overhead behind the longest history over that behind the shortest, such as `ratio_p50_2m_to_2k`."""
    ordered = sorted(points, key=lambda each: each["history_tokens"])
    shortest, longest = ordered[0], ordered[-1]
    name = f"ratio_p50_{short(longest['history_tokens'])}_to_{short(shortest['history_tokens'])}"
    return {name: round(longest["overhead_ms_p50"] / shortest["overhead_ms_p50"], 3)}


def spread(points: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By hop, how many bytes lie between the point that sends most over it and the one that sends least."""
    names = sorted({name for each in points for name in each["bytes_by_hop"]})
    sizes = {name: [each["bytes_by_hop"].get(name, 0) for each in points] for name in names}
    return {name: max(each) - min(each) for name, each in sizes.items()}


def short(tokens: int) -> str:
    """A number of tokens as names have it: `2m`, `200k`."""
    for unit, letter in ((1_000_000, "m"), (1_000, "k")):
        if tokens % unit == 0:
            return f"{tokens // unit}{letter}"
    return str(tokens)


def _medians(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each key; a row that lacks one counts as 0 there."""
    table = list(rows)
    names = sorted({name for row in table for name in row})
    return {name: median(row.get(name, 0) for row in table) for name in names}
