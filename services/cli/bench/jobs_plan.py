"""The plan of `isthmus bench jobs`: the mesh it wants, what became of each job, and the verdict. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from isthmus.session.v1 import fragment_pb2, turn_pb2

# What a lost gateway had is another's after this.
_REDELIVERY_MS: Final = 2_000
_RESTART_MS_MAX: Final = 500

DONE, DEAD, DOUBLED, LOST = "done", "dead", "doubled", "lost"


@dataclass(frozen=True, slots=True)
class JobsPlan:
    """Jobs, one a session; the gateways that run them, and how often one is killed (0: never)."""

    count: int
    gateways: int
    kill_every_s: float
    output_tokens: int
    tokens_per_s: float
    seed: int

    def sections(self) -> dict[str, dict[str, object]]:
        """The mesh's settings."""
        return {
            "mesh": {"shards": 1, "gateways": self.gateways},
            "inference": {
                "engine": "scripted",
                "scripted_output_tokens": self.output_tokens,
                "scripted_tokens_per_s": self.tokens_per_s,
                "requests_running_max": 64,
                "requests_waiting_max": 256,
            },
            "gateway": {
                "access": {"mode": "open"},
                "jobs": {
                    "redelivery_ms": _REDELIVERY_MS,
                    "queued_count_max": max(100_000, self.count),
                    "dead_count_max": max(1_000, self.count),
                },
            },
            # A gateway that is killed again soon is no gateway that cannot start.
            "supervisor": {"restart_delay_ms_max": _RESTART_MS_MAX},
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a session holds in the end, and the reason in the dead letters, empty where its job is not there."""

    turns: Sequence[turn_pb2.Turn]
    fragments: Sequence[fragment_pb2.Fragment]
    dead_reason: str = ""


def fate(found: Found) -> str:
    """What became of a session's one job: done once in its effects, dead with its reason, doubled, or lost."""
    done = [turn for turn in found.turns if turn.state == turn_pb2.Turn.STATE_DONE]
    replies = [each for each in found.fragments if each.kind == fragment_pb2.FRAGMENT_KIND_REPLY]
    if len(done) > 1 or len(found.turns) > 1 or len({each.turn for each in replies}) > 1:
        return DOUBLED
    if done:
        sequences = [each.sequence for each in found.fragments]
        is_whole = sequences == list(range(1, len(sequences) + 1)) and bool(replies)
        return DONE if is_whole and len(sequences) == len(replies) + 1 else DOUBLED
    is_failed = any(turn.state == turn_pb2.Turn.STATE_FAILED for turn in found.turns)
    return DEAD if is_failed and found.dead_reason and not found.fragments else LOST


def tally(fates: Iterable[str]) -> dict[str, int]:
    """How many there are of each fate."""
    counted = Counter(fates)
    return {name: counted[name] for name in (DONE, DEAD, DOUBLED, LOST)}


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """What must not be, in words."""
    problems = [f"{figures[name]} jobs were {name}" for name in (DOUBLED, LOST) if figures[name]]
    accounted = sum(figures[name] for name in (DONE, DEAD, DOUBLED, LOST))
    if accounted != figures["jobs"]:
        problems.append(f"{figures['jobs']} jobs were submitted and {accounted} are accounted for")
    return problems
