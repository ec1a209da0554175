"""`isthmus bench load`: turns at a set rate, what the mesh adds to each, and what its processes take for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.cli.bench import machine, memory
from services.cli.bench.load_client import Errand
from services.cli.bench.load_clients import Client, Heard, clients, heard
from services.cli.bench.load_plan import LoadPlan, Pace, slope, verdict
from services.cli.bench.turns import Progress
from services.supervisor.state import MeshState

_CLIENT: Final = "services.cli.bench.load_client"
_SAMPLE_S: Final = 1.0
_MB: Final = 1e6


async def measure(mesh: MeshState, plan: LoadPlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh of `plan.sections()`."""
    described = machine.describe()
    pids = {each.name: each.pid for each in mesh.processes if each.pid}
    errands = [Errand(mesh.grpc, share) for share in plan.shares()]
    async with clients(_CLIENT, errands) as running:
        watch = Watch(pids | {f"client-{number}": each.pid for number, each in enumerate(running)}, running)
        watching = asyncio.create_task(watch.keep(plan.warm_up_s, _shown(plan, progress)))
        try:
            found = await heard(running)
        finally:
            watching.cancel()
    figures = {**summary(found, plan), **watch.figures(set(pids))}
    problems = verdict(figures)
    return {"machine": described, **figures, "problems": problems}


def summary(found: Heard, plan: LoadPlan) -> dict[str, Any]:
    """What the clients have seen; the engine's time is taken off, as its settings say it."""
    errors, turns = found.errors.total(), len(found.latencies)
    seconds = max(plan.seconds, found.last_s - plan.warm_up_s)
    return {
        "rate": plan.rate,
        "seconds": plan.seconds,
        "sessions": plan.sessions,
        "session_turns": plan.session_turns,
        "turns": turns + errors,
        "turns_per_s": round(turns / seconds, 2),
        "engine_ms": round(plan.pace.engine_ms, 3),
        **overheads(found, plan.pace),
        "errors": errors,
        "errors_by_reason": dict(found.errors),
    }


def overheads(found: Heard, pace: Pace) -> dict[str, float | None]:
    """Percentiles of what the mesh took beside the engine; None where no turn was answered."""
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    if not len(found.latencies):
        return {f"overhead_ms_{name}": None for name in shares}
    return {
        f"overhead_ms_{name}": round(found.latencies.percentile(share) - pace.engine_ms, 3)
        for name, share in shares.items()
    }


class Watch:
    """Looks at processes while the clients are at work: memory by turns done, and processor time."""

    def __init__(self, pids: Mapping[str, int], clients: Sequence[Client]) -> None:
        self._pids = pids
        self._clients = clients
        self._resident: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
        self._cpu: list[tuple[int, dict[str, float]]] = []

    async def keep(self, warm_up_s: float, show: Any) -> None:
        """Takes samples after the warm-up until it is cancelled."""
        begun = time.monotonic()
        while True:
            show(time.monotonic() - begun)
            if time.monotonic() - begun >= warm_up_s:
                self._sample()
            await asyncio.sleep(_SAMPLE_S)

    def figures(self, names: set[str]) -> dict[str, Any]:
        """`names` are those of the mesh; the clients' processor time is told beside theirs."""
        slopes = {name: 1_000 * slope(self._resident[name]) / _MB for name in self._pids if name in names}
        return {
            "rss_slope_mb_per_1k_turns": {name: round(value, 4) for name, value in slopes.items()},
            "rss_mb": {name: _ends(self._resident[name]) for name in slopes},
            "cpu_ms_per_turn": self._cpu_ms_per_turn(),
        }

    def _sample(self) -> None:
        done = sum(client.done for client in self._clients)
        seconds: dict[str, float] = {}
        for name, pid in self._pids.items():
            # One that is restarted just now is looked at the next time.
            try:
                self._resident[name].append((done, memory.resident_bytes([pid])))
                seconds[name] = memory.cpu_seconds(pid)
            except (ProcessLookupError, FileNotFoundError):
                continue
        self._cpu.append((done, seconds))

    def _cpu_ms_per_turn(self) -> dict[str, float]:
        if len(self._cpu) < 2 or self._cpu[-1][0] == self._cpu[0][0]:
            return {}
        (first, before), (last, after) = self._cpu[0], self._cpu[-1]
        return {
            name: round(1_000 * (after[name] - before[name]) / (last - first), 3)
            for name in self._pids
            if name in before and name in after
        }


def _ends(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    sizes = [size for _, size in samples] or [0.0]
    return {
        "first": round(sizes[0] / _MB, 1),
        "last": round(sizes[-1] / _MB, 1),
        "most": round(max(sizes) / _MB, 1),
    }


def _shown(plan: LoadPlan, progress: Progress) -> Any:
    total = round(plan.warm_up_s + plan.seconds)
    return lambda seconds: progress("load", min(round(seconds), total), total)
