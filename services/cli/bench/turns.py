"""`isthmus bench turn`: what one more turn costs, by the history behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.cli.bench import machine
from services.cli.bench.client import BenchClient, pieces
from services.cli.bench.statistics import TurnSample, point, ratio, spread
from services.cli.bench.text import delta, text

_WARM_UP_TURNS: Final = 5
_QUIET_POLLS: Final = 3
_QUIET_POLL_S: Final = 1.0
_QUIET_S_MAX: Final = 600.0
_DOCUMENT: Final = "history"

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """What to measure: history lengths in tokens, measured turns on each, and the seed of the texts."""

    histories: Sequence[int]
    turns: int
    seed: int


async def measure(target: str, plan: TurnPlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh whose gateway is at `target`; its sessions are erased afterwards.

    Turns go round over the sessions, so that noise on the machine hits all of them alike. The compressor has caught up
    with the histories before the first one.
    """
    described = machine.describe()
    async with BenchClient(target) as client:
        sessions = {f"bench-{time.time_ns()}-{history}": history for history in plan.histories}
        try:
            await _fill(client, sessions, plan.seed, progress)
            await _wait_quiet(client, sessions, progress)
            samples = await _turns(client, list(sessions), plan.turns, progress)
        finally:
            await asyncio.gather(*(client.delete(session) for session in sessions), return_exceptions=True)
    points = [point(history, samples[session]) for session, history in sessions.items()]
    return {
        "turns": plan.turns,
        "machine": described,
        "points": points,
        **ratio(points),
        "bytes_spread": spread(points),
    }


async def _fill(client: BenchClient, sessions: dict[str, int], seed: int, progress: Progress) -> None:
    for number, (session, history) in enumerate(sessions.items()):
        progress("histories", number, len(sessions))
        await client.create(session)
        data = await asyncio.to_thread(lambda tokens: text(tokens, seed).encode(), history)
        await client.ingest(session, _DOCUMENT, pieces(data))
    progress("histories", len(sessions), len(sessions))


async def _wait_quiet(client: BenchClient, sessions: dict[str, int], progress: Progress) -> None:
    """Returns once no session has got another summary for a while."""
    counts: list[int] = []
    quiet = 0
    deadline = time.monotonic() + _QUIET_S_MAX
    while quiet < _QUIET_POLLS and time.monotonic() < deadline:
        progress("compressor", quiet, _QUIET_POLLS)
        await asyncio.sleep(_QUIET_POLL_S)
        now = [(await client.get(session)).summary_count for session in sessions]
        quiet = quiet + 1 if now == counts else 0
        counts = now
    progress("compressor", _QUIET_POLLS, _QUIET_POLLS)


async def _turns(
    client: BenchClient, sessions: Sequence[str], turns: int, progress: Progress
) -> dict[str, list[TurnSample]]:
    samples: dict[str, list[TurnSample]] = {session: [] for session in sessions}
    for number in range(_WARM_UP_TURNS + turns):
        progress("turns", number, _WARM_UP_TURNS + turns)
        for session in sessions:
            measured = await client.turn(session, delta(number))
            if number >= _WARM_UP_TURNS:
                samples[session].append(measured)
    progress("turns", _WARM_UP_TURNS + turns, _WARM_UP_TURNS + turns)
    return samples
