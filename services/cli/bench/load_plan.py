"""The plan of `isthmus bench load`: who sends what when, the settings of its mesh, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

OVERHEAD_MS_P99_MAX: Final = 50.0
# Of the rate that was asked for, what counts as held: the last turns may still be on their way.
_HELD_SHARE: Final = 0.98
# What a process may grow by; below so many turns the slope is told and not judged, as it is noise.
SLOPE_MB_MAX: Final = 0.1
_SLOPE_TURNS_MIN: Final = 20_000
# Requests that the engine needs at once, beyond those that its pace asks for on average.
_ROOM_FACTOR: Final = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """What the scripted engine takes for a reply, by its settings; 0 tokens a second is all at once."""

    ttft_ms: float
    tokens: int
    tokens_per_s: float

    @property
    def engine_ms(self) -> float:
        """From when the engine is asked until its last token: that is due when those before it are out."""
        return self.ttft_ms + (1_000 * (self.tokens - 1) / self.tokens_per_s if self.tokens_per_s else 0.0)


@dataclass(frozen=True, slots=True)
class Share:
    """What one client does of the load: turns at `first_s`, `first_s + every_s` and so on, until `seconds` are over.

    Those of the first `warm_up_s` are run and not counted. It has `sessions` sessions at once, each for
    `session_turns` turns; then it is deleted, and another one takes its place.
    """

    first_s: float
    every_s: float
    seconds: float
    warm_up_s: float
    sessions: int
    session_turns: int


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Turns a second for so many seconds after the warm-up, over sessions whose number and length stay the same."""

    seconds: int
    rate: float
    sessions: int
    session_turns: int
    clients: int
    processes: int
    pace: Pace
    warm_up_s: float = 5.0

    def shares(self) -> list[Share]:
        """One a client; together they start a turn every `1 / rate` seconds."""
        every_s = self.clients / self.rate
        return [
            Share(
                number / self.rate,
                every_s,
                self.warm_up_s + self.seconds,
                self.warm_up_s,
                ceil((self.sessions - number) / self.clients),
                self.session_turns,
            )
            for number in range(self.clients)
        ]

    def sections(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of its mesh: the defaults, but for the engine's pace and what it needs for that."""
        at_once = ceil(_ROOM_FACTOR * self.rate * self.pace.engine_ms / 1_000)
        return {
            "inference": {
                "engine": "scripted",
                "scripted_ttft_ms": self.pace.ttft_ms,
                "scripted_output_tokens": self.pace.tokens,
                "scripted_tokens_per_s": self.pace.tokens_per_s,
                "requests_running_max": max(16, at_once),
            },
            "gateway": {"access": {"mode": "open"}, "processes_count": self.processes},
        }


def lifetimes(sessions: int, session_turns: int) -> list[int]:
    """How many turns each of the first sessions has, so that they do not all end at once."""
    return [1 + number * session_turns // sessions for number in range(sessions)]


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """By how much the second number grows for each of the first: least squares over the second half; 0 if it stands."""
    half = samples[len(samples) // 2 :]
    if not half:
        return 0.0
    mean_x, mean_y = (sum(values) / len(half) for values in zip(*half, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in half)
    return sum((x - mean_x) * (y - mean_y) for x, y in half) / spread if spread else 0.0


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in words; nothing where all is well."""
    found = []
    if figures["errors"]:
        found.append(f"errors: {figures['errors']} of {figures['turns']} turns: {figures['errors_by_reason']}")
    if figures["turns_per_s"] < _HELD_SHARE * figures["rate"]:
        found.append(f"turns_per_s: {figures['turns_per_s']}; expected {figures['rate']}")
    if figures["overhead_ms_p99"] > OVERHEAD_MS_P99_MAX:
        found.append(f"overhead_ms_p99: {figures['overhead_ms_p99']}; expected at most {OVERHEAD_MS_P99_MAX}")
    if figures["turns"] >= _SLOPE_TURNS_MIN:
        found += [
            f"{name}: grows by {mb} MB in 1,000 turns; expected at most {SLOPE_MB_MAX}"
            for name, mb in figures["rss_slope_mb_per_1k_turns"].items()
            if mb > SLOPE_MB_MAX
        ]
    return found
