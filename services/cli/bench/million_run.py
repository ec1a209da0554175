"""`isthmus bench million`: turns on a window of a million tokens, through gateway, store and vLLM."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from services.cli.bench import machine, memory, million_plan
from services.cli.bench.client import pieces
from services.cli.bench.million_plan import MillionPlan, verdict
from services.cli.bench.text import delta, text
from services.cli.bench.timed import TimedClient, TimedTurn, greedy
from services.cli.bench.turns import Progress
from services.config import Settings, load_settings
from services.ring import Ring
from services.supervisor.home import Home
from services.supervisor.state import MeshState

_DOCUMENT: Final = "million"
_INFERENCE: Final = "inference"
_MB: Final = 1_000_000
# A turn with a seed is a request of its own in the engine, whatever is open there.
_SEED: Final = 1


async def measure(mesh: MeshState, plan: MillionPlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh of `plan.sections()`; its sessions are erased afterwards."""
    described = machine.describe()
    async with TimedClient(mesh.grpc) as client:
        bench = _Bench(client, mesh, plan, progress)
        before = bench.resident()
        bench.forget_peaks()
        try:
            figures = await bench.run()
            after, peaks = bench.resident(), bench.peaks()
        finally:
            await asyncio.gather(client.clear(), return_exceptions=True)
    problems = verdict(figures)
    return {
        "machine": described,
        **figures,
        "resident_mb": {
            name: {"before": before[name], "after": after[name], "peak": peaks[name]} for name in sorted(before)
        },
        "met": not problems,
        "problems": problems,
    }


class _Bench:
    def __init__(self, client: TimedClient, mesh: MeshState, plan: MillionPlan, progress: Progress) -> None:
        self._client = client
        self._mesh = mesh
        self._plan = plan
        self._progress = progress
        self._session = f"million-{time.time_ns()}"
        self._turn = 0
        # The engine's own processes are their replica's.
        self._pids = {each.name: memory.with_children(each.pid) for each in mesh.processes if each.pid is not None}

    def resident(self) -> dict[str, float]:
        """Megabytes of each process."""
        return {name: round(memory.resident_bytes(pids) / _MB, 1) for name, pids in self._pids.items()}

    def peaks(self) -> dict[str, float]:
        """The same at most since `forget_peaks`."""
        return {name: round(memory.peak_bytes(pids) / _MB, 1) for name, pids in self._pids.items()}

    def forget_peaks(self) -> None:
        """Starts the peaks anew."""
        for pids in self._pids.values():
            memory.forget_peak(pids)

    async def run(self) -> dict[str, Any]:
        size, ingest_s = await self._ingest()
        (first,) = await self._turns("first turn", 1)
        # The engine keeps a session open that comes back: from the turn after this one on it is resident.
        (second,) = await self._turns("second turn", 1)
        resident = await self._turns("resident turns", self._plan.turns)
        hits = await self._turns("turns on a prefix hit", self._plan.turns, seed=_SEED)
        elsewhere = await self._elsewhere(first.replica)
        return {
            "tokens": self._plan.tokens,
            "document_bytes": size,
            "ingest_s": round(ingest_s, 3),
            "window_tokens": first.window_tokens,
            "cold_first": million_plan.cold(first),
            "opening": million_plan.warm([second]),
            "resident": million_plan.warm(resident),
            "prefix_hit": million_plan.warm(hits),
            "cold_elsewhere": million_plan.cold(elsewhere),
        }

    async def _ingest(self) -> tuple[int, float]:
        """Writes the document; its bytes, and the seconds that this took."""
        self._progress("document", 0, 1)
        data = await asyncio.to_thread(lambda: text(self._plan.tokens, self._plan.seed).encode())
        await self._client.open(self._session, 0)
        started = time.perf_counter()
        await self._client.ingest(self._session, _DOCUMENT, pieces(data))
        self._progress("document", 1, 1)
        return len(data), time.perf_counter() - started

    async def _turns(self, stage: str, count: int, session: str = "", **sampling: int) -> list[TimedTurn]:
        params = greedy(self._plan.output_tokens, **sampling)
        turns = []
        for number in range(count):
            self._progress(stage, number, count)
            turns.append(await self._client.timed(session or self._session, delta(self._turn), params))
            self._turn += 1
        self._progress(stage, count, count)
        return turns

    async def _elsewhere(self, owner: str) -> TimedTurn:
        """A turn on the same window, as a fork's, at the replica that has nothing of it."""
        settings = load_settings(Home(Path(self._mesh.home)).settings)
        fork = million_plan.fork_elsewhere(self._ring(settings), settings.mesh.tenant_default, self._session, owner)
        await self._client.fork(self._session, fork)
        (turn,) = await self._turns("first turn elsewhere", 1, session=fork)
        return turn

    def _ring(self, settings: Settings) -> Ring:
        """The replicas' ring, as every process has it."""
        ring = settings.membership
        replicas = {each.name: ring.weight for each in self._mesh.processes if each.room == _INFERENCE}
        return Ring(replicas, ring.ring_virtual_nodes, ring.ring_slots_count, ring.ring_share_factor)
