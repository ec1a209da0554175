"""`isthmus bench prefix`: what the prefix cache gives because sessions stay at their replica and windows only grow."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Final

from services.cli.bench import machine, prefix_plan
from services.cli.bench.prefix_driver import Driver, SlidingWindow
from services.cli.bench.prefix_plan import REPLICAS, VOICES, PrefixPlan, verdict
from services.cli.bench.text import delta
from services.cli.bench.timed import TimedClient, TimedTurn, greedy
from services.cli.bench.turns import Progress
from services.cli.errors import CliError
from services.supervisor.state import MeshState

_STORE: Final = "context_store"
_INFERENCE: Final = "inference"
_COUNTED_S_MAX: Final = 300.0
_COUNTED_POLL_S: Final = 0.25


async def measure(mesh: MeshState, plan: PrefixPlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh of `plan.sections()`; its sessions are erased afterwards."""
    described = machine.describe()
    shard = next(each.endpoint for each in mesh.processes if each.room == _STORE)
    replicas = [each.endpoint for each in mesh.processes if each.room == _INFERENCE]
    stamp = time.time_ns()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(TimedClient(mesh.grpc))
        drivers = {
            name: await stack.enter_async_context(Driver(shard, replicas, f"{name}-{stamp}", plan.output_tokens))
            for name in ("rotating", "sliding", "affine", "random")
        }
        try:
            figures = await _Bench(client, drivers, plan, progress, f"prefix-{stamp}").run()
        finally:
            await asyncio.gather(client.clear(), *(each.clear() for each in drivers.values()), return_exceptions=True)
        model = drivers["affine"].model.name
    problems = verdict({"engine": plan.engine, **figures})
    return {
        "machine": described,
        "engine": plan.engine,
        "model": model,
        "turns": plan.turns,
        "window_tokens_max": plan.window_tokens,
        **figures,
        "met": not problems,
        "problems": problems,
    }


class _Bench:
    """One measurement. The drivers are by what their sessions are for, each of a tenant of its own."""

    def __init__(
        self, client: TimedClient, drivers: dict[str, Driver], plan: PrefixPlan, progress: Progress, name: str
    ) -> None:
        self._client = client
        self._drivers = drivers
        self._plan = plan
        self._progress = progress
        self._name = name
        self._params = greedy(plan.output_tokens)

    async def run(self) -> dict[str, Any]:
        # Written first: the compressor has done with them by the time that the clock runs.
        await self._fill()
        conversations = await self._conversations()
        await self._counted()
        return {**conversations, **await self._first_tokens(), **await self._placements()}

    async def _fill(self) -> None:
        """Writes the windows whose first token is timed later."""
        plan = self._plan
        for sample in range(plan.samples):
            self._progress("windows", sample, plan.samples)
            await self._client.open(self._cold(sample), 0)
            for number, text in enumerate(plan.parts(sample)):
                await self._client.append(self._cold(sample), text, f"part-{number}")
            # Their tenants keep their caches apart, but an engine may not: no text comes twice.
            for place, name in enumerate(("affine", "random"), 1):
                await self._drivers[name].create(self._cold(sample), plan.parts(place * plan.samples + sample))
        self._progress("windows", plan.samples, plan.samples)

    async def _conversations(self) -> dict[str, Any]:
        """The same conversation three times, turn by turn in turn, so that noise on the machine hits all alike."""
        plan, session = self._plan, self._name
        await self._client.open(session, plan.window_tokens)
        await self._drivers["rotating"].create(session)
        sliding = SlidingWindow(self._drivers["sliding"], session, plan.window_tokens)
        turns: dict[str, list[TimedTurn]] = {"mesh": [], "round_robin": [], "sliding_window": []}
        for number in range(plan.turns):
            self._progress("conversation", number, plan.turns)
            told, rotated, slid = (plan.message(number, voice) for voice in VOICES)
            replica = number % REPLICAS
            turns["mesh"].append(await self._client.timed(session, told, self._params))
            turns["round_robin"].append(
                await self._drivers["rotating"].turn(session, rotated, replica, plan.window_tokens)
            )
            turns["sliding_window"].append(await sliding.turn(slid))
        self._progress("conversation", plan.turns, plan.turns)
        figures = {name: prefix_plan.conversation(each) for name, each in turns.items()}
        return {
            **figures.pop("mesh"),
            "epochs": prefix_plan.epochs(turns["mesh"]),
            "replicas_used": len({turn.replica for turn in turns["mesh"]}),
            **figures,
        }

    async def _counted(self) -> None:
        """Returns once the compressor has counted the windows: their plan would go by estimates otherwise."""
        plan, deadline = self._plan, time.monotonic() + _COUNTED_S_MAX
        for sample in range(plan.samples):
            self._progress("counted", sample, plan.samples)
            while (await self._client.get(self._cold(sample))).summary_count < len(plan.parts(sample)):
                if time.monotonic() > deadline:
                    raise CliError(
                        "BENCH_FAILED",
                        f"after {_COUNTED_S_MAX:.0f} s the compressor has not counted {self._cold(sample)}; look into"
                        " the log in the benchmark's --home",
                    )
                await asyncio.sleep(_COUNTED_POLL_S)
        self._progress("counted", plan.samples, plan.samples)

    async def _first_tokens(self) -> dict[str, Any]:
        """Turns through the mesh on windows that nobody has seen, and those after them."""
        plan = self._plan
        cold: list[TimedTurn] = []
        warm: list[TimedTurn] = []
        for sample in range(plan.samples):
            self._progress("cold and warm", sample, plan.samples)
            cold.append(await self._client.timed(self._cold(sample), delta(0), self._params))
            warm += [
                await self._client.timed(self._cold(sample), delta(1 + number), self._params)
                for number in range(plan.rounds)
            ]
        self._progress("cold and warm", plan.samples, plan.samples)
        return prefix_plan.first_tokens(cold, warm)

    async def _placements(self) -> dict[str, Any]:
        """Turns that go to one replica, and turns that go to any; of both not the first, which nobody can have seen."""
        plan = self._plan
        random = Random(plan.seed)  # noqa: S311
        turns: dict[str, list[TimedTurn]] = {"affine": [], "random": []}
        for sample in range(plan.samples):
            self._progress("placements", sample, plan.samples)
            home = sample % REPLICAS
            for number in range(1 + plan.rounds):
                anywhere = random.randrange(REPLICAS)
                for name, replica in (("affine", home), ("random", anywhere)):
                    turn = await self._drivers[name].turn(self._cold(sample), delta(number), replica)
                    if number:
                        turns[name].append(turn)
        self._progress("placements", plan.samples, plan.samples)
        return prefix_plan.placed(turns["affine"], turns["random"])

    def _cold(self, sample: int) -> str:
        """The session of a window whose first token is timed."""
        return f"{self._name}-{sample}"
