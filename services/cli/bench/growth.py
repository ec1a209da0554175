"""What one more turn writes as a session grows: the same figures that the store's peers are asked for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any, Final

from services import valkey

# How many turns before the one that is looked at its median takes in.
_SPAN: Final = 9


async def measure(
    client: valkey.Client, lengths: Sequence[int], turn: Callable[[int], Awaitable[object]]
) -> list[dict[str, float]]:
    """Milliseconds of a turn, bytes that Valkey is sent for it, and bytes its data grows by; by the turns before it."""
    taken: list[tuple[float, int, int]] = []
    for number in range(max(lengths) + 1):
        before, started = await _counted(client), time.perf_counter()
        await turn(number)
        ms = (time.perf_counter() - started) * 1_000
        after = await _counted(client)
        taken.append((ms, after[0] - before[0], after[1] - before[1]))
    return [_point(turns, taken[max(1, turns - _SPAN) : turns + 1]) for turns in lengths]


async def _counted(client: valkey.Client) -> tuple[int, int]:
    infos: list[dict[str, Any]] = [
        await valkey.command(node, "INFO", "everything") for node in await valkey.primaries(client)
    ]
    written, kept = (sum(info[name] for info in infos) for name in ("total_net_input_bytes", "used_memory_dataset"))
    return written, kept


def _point(turns: int, taken: Sequence[tuple[float, int, int]]) -> dict[str, float]:
    ms, written, kept = zip(*taken, strict=True)
    return {
        "turns": turns,
        "ms_p50": round(median(ms), 3),
        "written_bytes": round(median(written)),
        "kept_bytes": round(median(kept)),
    }
