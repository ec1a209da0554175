"""`isthmus bench sessions`: very many sessions of which a few are live; the rest are objects, and any one answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from isthmus.session.v1 import session_pb2

from services import valkey
from services.cli.bench import machine
from services.cli.bench.cooling import Cooling
from services.cli.bench.crowd import Crowd, each
from services.cli.bench.footprint import Footprint
from services.cli.bench.population_plan import BESIDE_BYTES, SessionsPlan, verdict
from services.cli.bench.statistics import percentile
from services.cli.bench.turns import Progress
from services.config import Settings, load_settings
from services.supervisor.home import Home
from services.supervisor.state import MeshState

_CREATES_CONCURRENT: Final = 48
_ANSWERS_CONCURRENT: Final = 4
_ANSWERS_COUNT: Final = 400
_STALL_S_MAX: Final = 180.0


async def measure(mesh: MeshState, plan: SessionsPlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh of `plan.sections()`. Raises CliError when sessions are frozen no more."""
    described = machine.describe()
    settings = load_settings(Home(Path(mesh.home)).settings)
    async with AsyncExitStack() as stack:
        crowd = await stack.enter_async_context(Crowd.at(mesh.grpc, plan.text_bytes, plan.seed))
        client = valkey.connect(settings.valkey)
        stack.push_async_callback(client.aclose)
        footprint = Footprint(client, mesh, settings.mesh.tenant_default)
        try:
            figures = await _Bench(crowd, footprint, settings, plan, progress).run()
        except ExceptionGroup as group:
            raise _first(group) from group
    return {"machine": described, **figures}


class _Bench:
    def __init__(
        self, crowd: Crowd, footprint: Footprint, settings: Settings, plan: SessionsPlan, progress: Progress
    ) -> None:
        self._crowd = crowd
        self._footprint = footprint
        self._settings = settings
        self._plan = plan
        self._progress = progress
        live = set(plan.live)
        self._rest = [number for number in range(plan.sessions) if number not in live]
        self._turns_ms: list[float] = []

    async def run(self) -> dict[str, Any]:
        before = await self._footprint.used()
        budgets = self._budgets()
        cooling = Cooling(self._footprint.cold_count, self._show_frozen, _STALL_S_MAX)
        async with self._live_ones(), cooling.watched():
            created_s = await self._create()
            pages_ms = await self._all_frozen(cooling)
            turns_ms = list(self._turns_ms)
            live = {self._crowd.session(number) for number in self._plan.live}
            used, live_bytes = await self._footprint.used(), await self._footprint.of_sessions(live)
            count, size = await self._footprint.objects()
            answers = await self._answers()
        at_last = await self._footprint.used()
        figures = {
            "sessions": self._plan.sessions,
            "live": len(live),
            "created_per_s": round(len(self._rest) / created_s, 1),
            **cooling.figures(),
            "valkey_used_bytes": used.now,
            "valkey_used_bytes_peak": at_last.peak,
            "valkey_budget_bytes": used.bound,
            "valkey_within_budget": at_last.is_within,
            "valkey_bytes_per_cold_session": round((used.keys - before.keys - live_bytes) / len(self._rest)),
            "valkey_bytes_per_live_session": round(live_bytes / len(live)),
            "shards": {name: {**shard, **budgets[name]} for name, shard in self._footprint.shards().items()},
            "objects_count": count,
            "objects_bytes": size,
            **answers,
            "turns": len(turns_ms),
            **_percentiles("turn", turns_ms),
            **_percentiles("list_page", pages_ms),
            "refusals": dict(self._crowd.patience.refusals),
        }
        problems = verdict(figures)
        return {**figures, "within_budget": not problems, "problems": problems}

    def _budgets(self) -> dict[str, dict[str, int]]:
        """What each shard may take: what it takes now, its copies and texts, and some room beside them."""
        store = self._settings.store
        more = store.hot_sessions_bytes_max + store.bodies_bytes_max + BESIDE_BYTES
        budgets = {}
        for name, shard in self._footprint.shards().items():
            budgets[name] = {
                "rss_budget_bytes": shard["rss_bytes"] + more,
                "hot_sessions_budget_bytes": store.hot_sessions_bytes_max,
            }
        return budgets

    @asynccontextmanager
    async def _live_ones(self) -> AsyncIterator[None]:
        """Makes the live sessions, which speak from then on."""
        await each(self._plan.live, self._crowd.create, _CREATES_CONCURRENT, lambda _: None)
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(
                self._crowd.keep_live(self._plan.live, self._plan.live_s, self._turns_ms.append)
            )
            yield
            talking.cancel()

    async def _create(self) -> float:
        """Makes the others; the seconds that this took."""
        started = time.perf_counter()
        total = len(self._rest)
        await each(
            self._rest, self._crowd.create, _CREATES_CONCURRENT, lambda done: self._progress("created", done, total)
        )
        return time.perf_counter() - started

    def _show_frozen(self, count: int) -> None:
        self._progress("frozen", min(count, len(self._rest)), len(self._rest))

    async def _all_frozen(self, cooling: Cooling) -> list[float]:
        """Returns once all but the live ones are objects, as lists say; the milliseconds of each page."""
        cooling.alone()
        rest = {self._crowd.session(number) for number in self._rest}
        while True:
            await cooling.reached(len(rest))
            cold: set[str] = set()
            pages_ms = []
            async for page, ms in self._crowd.pages():
                pages_ms.append(ms)
                cold |= {_id(session) for session in page if session.tier == session_pb2.TIER_OBJECT}
            if cold >= rest:
                return pages_ms

    async def _answers(self) -> dict[str, Any]:
        """Wakes some of the cold sessions, half by reading them and half by a turn, and compares their texts."""
        random = Random(self._plan.seed)  # noqa: S311
        asked = random.sample(self._rest, min(_ANSWERS_COUNT, len(self._rest)))
        by_turn = set(asked[::2])
        first_ms: list[float] = []

        async def ask(number: int) -> bool:
            started = time.perf_counter()
            if number in by_turn:
                await self._crowd.turn(number, 0)
                first_ms.append((time.perf_counter() - started) * 1_000)
                return await self._crowd.answers(number)
            is_right = await self._crowd.answers(number)
            first_ms.append((time.perf_counter() - started) * 1_000)
            return is_right

        right = await each(asked, ask, _ANSWERS_CONCURRENT, lambda done: self._progress("answers", done, len(asked)))
        return {
            "answers_checked": len(right),
            "answers_wrong": right.count(False),
            **_percentiles("answer", first_ms),
        }


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_ms_p50": round(percentile(values, 0.5), 2),
        f"{name}_ms_p99": round(percentile(values, 0.99), 2),
    }


def _id(session: session_pb2.Session) -> str:
    return session.name.removeprefix("sessions/")


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """What went wrong first; the other tasks were ended for it."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
