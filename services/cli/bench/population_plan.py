"""The plan of `isthmus bench sessions`: sizes, the budgets that follow from them, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_MIB: Final = 1 << 20
_SHARDS: Final = 2
# A primary of a cluster may have more than its share of the keys.
_PRIMARIES: Final = 3
_UNEVEN: Final = 1.25
# Budgets: what Valkey takes without a session, for one that is cold, and for one that talks all the time.
_VALKEY_BYTES: Final = 16 * _MIB
_COLD_BYTES: Final = 1_024
_LIVE_BYTES: Final = 64 << 10
_HOT_BYTES: Final = 16 * _MIB
_BODIES_BYTES: Final = 4 * _MIB
# What a shard may take beside its copies: calls and freezes that are under way, and what its allocator keeps.
BESIDE_BYTES: Final = 48 * _MIB
# Turns a second of all live sessions together, and the shortest pause between two turns of one.
_TURNS_PER_S_MAX: Final = 30.0
_LIVE_S_MIN: Final = 0.5
# A freeze mostly waits for disks: so many at once keep a shard busy.
_FREEZES_CONCURRENT: Final = 16
# A session that has missed so many turns is idle.
_IDLE_TURNS: Final = 3


@dataclass(frozen=True, slots=True)
class SessionsPlan:
    """How many sessions there are, the share of them that is live, and the text that each begins with."""

    sessions: int
    live_share: float
    text_bytes: int
    valkey: str
    seed: int

    @property
    def live(self) -> list[int]:
        """The numbers of the live sessions, spread over all; at least one."""
        count = max(1, round(self.sessions * self.live_share))
        return [place * self.sessions // count for place in range(count)]

    @property
    def live_s(self) -> float:
        """How often a live session speaks."""
        return max(_LIVE_S_MIN, len(self.live) / _TURNS_PER_S_MAX)

    @property
    def valkey_bytes_max(self) -> int:
        """The bound of one primary."""
        total = (self.sessions - len(self.live)) * _COLD_BYTES + len(self.live) * _LIVE_BYTES
        return _VALKEY_BYTES + (int(total * _UNEVEN / _PRIMARIES) if self.valkey == "cluster" else total)

    def sections(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of its mesh."""
        return {
            "mesh": {"shards": _SHARDS},
            "supervisor": {
                "valkey": self.valkey,
                "valkey_memory_bytes_max": self.valkey_bytes_max,
                "replication_backlog_bytes": _MIB,
            },
            # No segment is ever full, so that the compressor leaves the machine to what is measured.
            "store": {
                "segment_tokens": 1 << 30,
                "hot_sessions_bytes_max": _HOT_BYTES,
                "bodies_bytes_max": _BODIES_BYTES,
            },
            "tiering": {
                "idle_ms": round(_IDLE_TURNS * self.live_s * 1_000),
                "janitor_interval_ms": 200,
                "janitor_concurrent_max": _FREEZES_CONCURRENT,
            },
        }


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in words; nothing where all is well. Pure."""
    found = [
        f"{name}: {shard['rss_bytes_peak']} bytes resident at most; expected {shard['rss_budget_bytes']}"
        for name, shard in figures["shards"].items()
        if shard["rss_bytes_peak"] > shard["rss_budget_bytes"]
    ]
    if not figures["valkey_within_budget"]:
        peak, budget = figures["valkey_used_bytes_peak"], figures["valkey_budget_bytes"]
        found.append(f"valkey: {peak} bytes used at most; expected {budget} at most, and each primary within its share")
    if figures["answers_wrong"]:
        found.append(f"answers: {figures['answers_wrong']} of {figures['answers_checked']} have another text")
    return found
