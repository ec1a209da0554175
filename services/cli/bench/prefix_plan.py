"""The plan of `isthmus bench prefix`: how long messages are, what turns make of the cache, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, median
from typing import Any, Final

from services.cli.bench.text import delta, text
from services.cli.bench.timed import TimedTurn
from services.cli.engines import model_section

REPLICAS: Final = 2
# How much of the window's room the messages of a conversation fill: epochs begin when it is full, and each time that
# half of it has come anew.
_FILL: Final = 1.7
_EPOCHS_MIN: Final = 3
# Who speaks in each of the three conversations: one token each.
VOICES: Final = ("Blue", "Green", "Red")
# What `delta` and the template around a message take, about.
_QUESTION_TOKENS: Final = 28
# A window for the first token's time is written in so many messages, each of which is a segment of its own: so the
# compressor counts all of it, and the plan need not go by estimates.
_PARTS: Final = 12
_SEGMENTS: Final = 16
# A replica with all cores may be late with its heartbeats, and its sessions' next turns would be read anew elsewhere.
_MEMBER_TTL_MS: Final = 60_000
# What is judged.
CACHED_SHARE_MIN: Final = 0.9
COLD_TO_WARM_MIN: Final = 15.0
# Engines whose first token does not wait for the prompt to be read.
_UNTIMED: Final = ("scripted",)


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """What to measure. `window_tokens` is the room of the conversation's window and the length of those whose first
    token is timed; `samples` is how many of the latter are cold, and `rounds` the turns that follow on each.
    """

    engine: str
    model: str | None
    turns: int
    window_tokens: int
    samples: int
    rounds: int
    output_tokens: int
    seed: int

    @property
    def message_tokens(self) -> int:
        """Tokens of one of the conversation's messages, the question at its end and the template included."""
        return max(_QUESTION_TOKENS + 1, round(_FILL * self.window_tokens / self.turns))

    def message(self, number: int, voice: str) -> str:
        """What the client says in turn `number`. Another voice, of VOICES, says the same after its first word.

        So what one conversation has left in an engine's cache is of no use to another, whatever the engine goes by.
        """
        words = text(self.message_tokens - _QUESTION_TOKENS, self.seed * self.turns + number)
        return f"{voice}: {words.strip()} {delta(number)}"

    def parts(self, session: int) -> list[str]:
        """The messages of a window of its own for each `session`: no two begin alike."""
        tokens = max(1, self.window_tokens // _PARTS)
        first = 1_000_003 * (self.seed + 1) + session * _PARTS
        return [text(tokens, first + part).strip() for part in range(_PARTS)]

    def sections(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of its mesh."""
        return {
            "mesh": {"replicas": REPLICAS, "shards": 1},
            "membership": {"member_ttl_ms": _MEMBER_TTL_MS},
            # One turn at a time: whichever replica has it has all cores.
            "inference": {"engine": self.engine, "threads_count": 0},
            # So that there are summaries by the time that an epoch ends.
            "store": {"segment_tokens": max(64, self.window_tokens // _SEGMENTS)},
            **model_section(self.engine, self.model),
        }


def cached_share(turns: Iterable[TimedTurn]) -> float | None:
    """Prompt tokens found in the cache, of all prompt tokens; None without a turn, or where the engine does not say."""
    cached, window = 0, 0
    for turn in turns:
        if turn.cached_tokens is None:
            return None
        cached += turn.cached_tokens
        window += turn.window_tokens
    return round(cached / window, 4) if window else None


def conversation(turns: Sequence[TimedTurn]) -> dict[str, Any]:
    """The figures of a conversation; the share is that of all turns but the very first, which nobody can have seen."""
    return {"cached_share": cached_share(turns[1:]), "ttft_ms_p50": milliseconds(turns), **_residents(turns)}


def epochs(turns: Sequence[TimedTurn]) -> list[dict[str, Any]]:
    """The same by epoch, in which the first turn of the conversation does not count either."""
    found = []
    for number, group in groupby(enumerate(turns), lambda each: each[1].epoch):
        members = list(group)
        found.append(
            {
                "epoch": number,
                "turns": len(members),
                "window_tokens": [members[0][1].window_tokens, members[-1][1].window_tokens],
                "cached_share": cached_share(turn for place, turn in members if place),
            }
        )
    return found


def first_tokens(cold: Sequence[TimedTurn], warm: Sequence[TimedTurn]) -> dict[str, Any]:
    """Through the mesh: windows that nobody has seen, and the turns after them. Medians."""
    cold_ms, warm_ms = milliseconds(cold), milliseconds(warm)
    return {
        "ttft_window_tokens": round(median(turn.window_tokens for turn in cold)),
        "ttft_cold_ms": cold_ms,
        "ttft_warm_ms": warm_ms,
        "cold_to_warm": round(cold_ms / warm_ms, 2),
        "cold_cached_share": cached_share(cold),
        "warm_cached_share": cached_share(warm),
    }


def placed(affine: Sequence[TimedTurn], random: Sequence[TimedTurn]) -> dict[str, Any]:
    """One replica against any: means, since what a median hides is the turns that find nothing."""
    affinity_ms, random_ms = (round(mean(turn.ttft_ms for turn in turns), 2) for turns in (affine, random))
    return {
        "ttft_affinity_ms": affinity_ms,
        "ttft_random_ms": random_ms,
        "random_to_affinity": round(random_ms / affinity_ms, 2),
        "affinity_cached_share": cached_share(affine),
        "random_cached_share": cached_share(random),
    }


def milliseconds(turns: Iterable[TimedTurn]) -> float:
    """The median time to the first token."""
    return round(median(turn.ttft_ms for turn in turns), 2)


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in words; nothing where all is well. What an engine does not say is not judged."""
    found = []
    share = figures["cached_share"]
    if share is not None and share < CACHED_SHARE_MIN:
        found.append(f"cached_share: {share}; expected at least {CACHED_SHARE_MIN}")
    if len(figures["epochs"]) < _EPOCHS_MIN:
        found.append(f"epochs: {len(figures['epochs'])}; expected at least {_EPOCHS_MIN}, ask for more --turns")
    ratio = figures["cold_to_warm"]
    if figures["engine"] not in _UNTIMED and ratio < COLD_TO_WARM_MIN:
        found.append(f"cold_to_warm: {ratio}; expected at least {COLD_TO_WARM_MIN}")
    return found


def _residents(turns: Sequence[TimedTurn]) -> dict[str, int]:
    return {"turns_resident": sum(turn.resident for turn in turns)}
