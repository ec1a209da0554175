"""The plan of `isthmus bench million`: the settings of its mesh, what a turn's legs come to, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Final

from services.cli.bench.timed import TimedTurn
from services.cli.engines import VLLM
from services.ring import Ring
from services.router import session_key

# The longest text whose estimate, made before its tokens are counted, fits into the model's two million tokens.
TOKENS_MAX: Final = 1_250_000
REPLICAS: Final = 2
# The turns at the replica that has the window, in their order.
WARM: Final = ("opening", "resident", "prefix_hit")
ENGINE: Final = "inference.engine generate"
PULL: Final = "inference.context_store pull"
# What is judged, in milliseconds.
RESIDENT_MS_MAX: Final = 100.0
PREFIX_HIT_MS_MAX: Final = 1_000.0
OVERHEAD_MS_MAX: Final = 1_500.0
# Of a turn on a prefix hit, this share of the prompt at least was in the cache.
_HIT_SHARE_MIN: Final = 0.99
# Of the random model, eight million tokens: the window, the same one open in the engine, a fork's, and as much again.
_KV_CACHE_GIB: Final = 2
_IDLE_MS: Final = 3_600_000
# A replica that reads a million tokens on all cores may be late with its heartbeats, and its session's next turn would
# be read anew at the other one.
_MEMBER_TTL_MS: Final = 60_000
# No segment is ever full, so that the compressor leaves the machine to what is measured.
_SEGMENT_TOKENS: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class MillionPlan:
    """What to measure: tokens of the document in the window, and how many turns of each kind. `model` is a folder;
    None takes the random one, which is made when it is absent.
    """

    tokens: int
    turns: int
    output_tokens: int
    seed: int
    model: Path | None

    def sections(self, model: Path) -> Mapping[str, Mapping[str, object]]:
        """The settings of its mesh."""
        cache: dict[str, object] = {"kv_cache_gib": _KV_CACHE_GIB} if self.model is None else {}
        return {
            "mesh": {"replicas": REPLICAS, "shards": 1},
            "membership": {"member_ttl_ms": _MEMBER_TTL_MS},
            # One turn at a time: whichever replica has it has all cores.
            "inference": {"engine": VLLM, "threads_count": 0, **cache},
            "store": {"segment_tokens": _SEGMENT_TOKENS},
            # However slow the machine is: what is open stays open until it is asked again.
            "vllm": {"model": str(model), "resident_idle_ms": _IDLE_MS},
        }


def fork_elsewhere(ring: Ring, tenant: str, session: str, owner: str) -> str:
    """An id for a fork of the session that belongs to another replica than `owner`. There is one."""
    forks = (f"{session}-{number}" for number in count())
    return next(fork for fork in forks if ring.owner(session_key(tenant, fork)) != owner)


def cold(turn: TimedTurn) -> dict[str, Any]:
    """A turn at a replica that has nothing of the window. `overhead_ms` is all that was not the engine's time."""
    engine_ms, pull_ms = turn.legs.get(ENGINE, 0.0), turn.legs.get(PULL, 0.0)
    return {
        "replica": turn.replica,
        "window_tokens": turn.window_tokens,
        "cached_tokens": turn.cached_tokens,
        "ttft_cold_ms": round(turn.ttft_ms, 1),
        "engine_ms": round(engine_ms, 1),
        "pull_ms": round(pull_ms, 1),
        "tokenize_ms": round(max(0.0, turn.missed_ms - pull_ms), 1),
        "overhead_ms": round(turn.wall_ms - engine_ms, 1),
    }


def warm(turns: Sequence[TimedTurn]) -> dict[str, Any]:
    """Turns at the replica that has the window; medians."""
    return {
        "turns": len(turns),
        "turns_resident": sum(turn.resident for turn in turns),
        "replicas": sorted({turn.replica for turn in turns}),
        "ttft_ms": round(median(turn.ttft_ms for turn in turns), 2),
        "ttft_ms_max": round(max(turn.ttft_ms for turn in turns), 2),
        "cached_share_min": min(_cached_share(turn) for turn in turns),
        "ms_by_leg": legs(turns),
    }


def legs(turns: Iterable[TimedTurn]) -> dict[str, float]:
    """The median of each leg."""
    table = [turn.legs for turn in turns]
    names = sorted({name for row in table for name in row})
    return {name: round(median(row.get(name, 0.0) for row in table), 2) for name in names}


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in words; nothing where all is well."""
    found = []
    resident, hit = figures["resident"], figures["prefix_hit"]
    for kind, each, ms_max in (("resident", resident, RESIDENT_MS_MAX), ("prefix_hit", hit, PREFIX_HIT_MS_MAX)):
        if each["ttft_ms"] > ms_max:
            found.append(f"{kind}: first token after {each['ttft_ms']} ms; expected at most {ms_max:.0f}")
    for kind in ("cold_first", "cold_elsewhere"):
        overhead_ms = figures[kind]["overhead_ms"]
        if overhead_ms > OVERHEAD_MS_MAX:
            found.append(f"{kind}: {overhead_ms} ms beside the engine's; expected at most {OVERHEAD_MS_MAX:.0f}")
    if figures["window_tokens"] < figures["tokens"]:
        found.append(f"window_tokens: {figures['window_tokens']}; expected at least {figures['tokens']}")
    if resident["turns_resident"] < resident["turns"]:
        found.append(f"resident: {resident['turns_resident']} of {resident['turns']} turns; expected all of them")
    if hit["turns_resident"] or hit["cached_share_min"] < _HIT_SHARE_MIN:
        found.append(
            f"prefix_hit: {hit['turns_resident']} turns resident and {hit['cached_share_min']} of a prompt cached; "
            f"expected none and at least {_HIT_SHARE_MIN}"
        )
    owner = figures["cold_first"]["replica"]
    found += [
        f"{kind}: at {' and '.join(figures[kind]['replicas'])}; expected {owner}, which has the window"
        for kind in WARM
        if figures[kind]["replicas"] != [owner]
    ]
    if figures["cold_elsewhere"]["replica"] == owner:
        found.append(f"cold_elsewhere: at {owner} again; expected the other replica")
    return found


def _cached_share(turn: TimedTurn) -> float:
    return round((turn.cached_tokens or 0) / turn.window_tokens, 4) if turn.window_tokens else 0.0
