"""`isthmus bench store`: what the context store costs, beside Valkey itself on the same work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import message_pb2

from services import valkey
from services.cli.bench import growth, machine, room
from services.cli.bench.shard import ShardClient
from services.cli.bench.statistics import percentile, short
from services.cli.bench.text import delta, text
from services.cli.bench.turns import Progress
from services.config import load_settings
from services.supervisor.home import Home
from services.supervisor.state import MeshState

# Sessions of the longest history, each of which is read once by a shard that holds nothing of it.
_COPIES: Final = 3
_HISTORIES: Final = (2_000, 200_000)
_ROOM: Final = "context_store"
_MB: Final = 1_000_000
_REPLY: Final = "Noted, and here is what follows from it."


@dataclass(frozen=True, slots=True)
class StorePlan:
    """What to measure. `tokens` is the longest history; `appends` are those of one round, at each level and each way;
    `lengths` are turns of a session that grows.
    """

    tokens: int
    turn_bytes: int
    rounds: int
    appends: int
    turns: int
    reads: int
    lengths: Sequence[int]
    seed: int

    @property
    def histories(self) -> tuple[int, ...]:
        """Tokens behind the sessions, the longest last."""
        return (*(each for each in _HISTORIES if each < self.tokens), self.tokens)


async def measure(mesh: MeshState, plan: StorePlan, progress: Progress) -> dict[str, Any]:
    """The figures of a mesh with two shards; its sessions are erased afterwards."""
    described = machine.describe()
    targets = [each.endpoint for each in mesh.processes if each.room == _ROOM]
    tenant = f"bench-{time.time_ns()}"
    async with AsyncExitStack() as stack:
        home, away = [await stack.enter_async_context(ShardClient(target, tenant)) for target in targets[:2]]
        bench = _Bench(Home(Path(mesh.home)).settings, tenant, home, away, plan, progress)
        try:
            figures = await bench.run()
        finally:
            await home.clear()
    return {"machine": described, "tokens": plan.tokens, **figures}


class _Bench:
    """One measurement: `home` is the shard where the sessions are written, `away` one that has not heard of them."""

    def __init__(
        self, settings: Path, tenant: str, home: ShardClient, away: ShardClient, plan: StorePlan, progress: Progress
    ) -> None:
        self._settings = settings
        self._tenant = tenant
        self._home = home
        self._away = away
        self._plan = plan
        self._progress = progress
        self._sessions = {f"history-{tokens}": tokens for tokens in plan.histories}
        self._copies = [f"copy-{number}" for number in range(_COPIES)]

    async def run(self) -> dict[str, Any]:
        appends = await self._appends()
        filled = await self._fill()
        opens, manifests = await self._opens()
        return {
            **appends,
            **await self._windows(manifests, filled),
            **opens,
            "turns": await self._growth(),
            **await self._memory(),
        }

    async def _room(self, command: str, *flags: str) -> Any:
        arguments = [command, "--tenant", self._tenant, *flags]
        return await room.measure(
            self._settings, arguments, lambda done, total: self._progress(f"shard: {command}", done, total)
        )

    async def _appends(self) -> dict[str, Any]:
        plan = self._plan
        flags = {"--rounds": plan.rounds, "--appends": plan.appends, "--bytes": plan.turn_bytes}
        figures = await self._room("appends", *(str(part) for flag in flags.items() for part in flag))
        for number, level in enumerate(figures["levels"]):
            self._progress("appends over gRPC", number, len(figures["levels"]))
            level |= await self._grpc_level(level["in_flight"])
            level["ratio_grpc"] = round(level["grpc_per_s"] / level["valkey_per_s"], 3)
        return {
            "append_ratio_to_valkey": figures["append_ratio_to_valkey"],
            "append_grpc_per_s": max(level["grpc_per_s"] for level in figures["levels"]),
            "append_ratio_to_valkey_grpc": min(level["ratio_grpc"] for level in figures["levels"]),
            "append_levels": figures["levels"],
        }

    async def _grpc_level(self, in_flight: int) -> dict[str, float]:
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=text(self._plan.turn_bytes, self._plan.seed))
        message.text = message.text[: self._plan.turn_bytes]
        ms: list[float] = []

        async def worker(number: int) -> None:
            for _ in range(max(1, self._plan.appends // in_flight)):
                started = time.perf_counter()
                await self._home.append(f"append-{number}", message)
                ms.append((time.perf_counter() - started) * 1_000)

        per_s: list[float] = []
        for _ in range(self._plan.rounds):
            before, started = len(ms), time.perf_counter()
            await asyncio.gather(*(worker(number) for number in range(in_flight)))
            per_s.append((len(ms) - before) / (time.perf_counter() - started))
        return {
            "grpc_per_s": round(median(per_s), 1),
            "grpc_ms_p50": round(percentile(ms, 0.5), 3),
            "grpc_ms_p99": round(percentile(ms, 0.99), 3),
        }

    async def _fill(self) -> int:
        """Writes the histories; the UTF-8 bytes of the longest."""
        every = {**self._sessions, **dict.fromkeys(self._copies, self._plan.tokens)}
        size = 0
        for number, (session, tokens) in enumerate(every.items()):
            self._progress("histories", number, len(every))
            data = await asyncio.to_thread(lambda tokens: text(tokens, self._plan.seed).encode(), tokens)
            size = max(size, len(data))
            await self._home.create(session)
            await self._home.fill(session, data)
        self._progress("histories", len(every), len(every))
        return size

    async def _opens(self) -> tuple[dict[str, Any], dict[str, window_pb2.Manifest]]:
        """Turns go round over the sessions, so that noise on the machine hits all of them alike."""
        times: dict[str, list[float]] = {session: [] for session in self._sessions}
        manifests: dict[str, window_pb2.Manifest] = {}
        for number in range(self._plan.turns):
            self._progress("turns", number, self._plan.turns)
            for session, taken in times.items():
                ms, manifests[session] = await self._home.turn(session, delta(number), _REPLY)
                taken.append(ms)
        for session in self._copies:
            _, manifests[session] = await self._home.turn(session, delta(0), _REPLY)
        p50 = {tokens: percentile(times[session], 0.5) for session, tokens in self._sessions.items()}
        shortest, longest = min(p50), max(p50)
        ratio = f"open_to_manifest_ratio_{short(longest)}_to_{short(shortest)}"
        figures = {
            "open_to_manifest_ms": {str(tokens): round(ms, 3) for tokens, ms in p50.items()},
            ratio: round(p50[longest] / p50[shortest], 3),
        }
        return figures, manifests

    async def _windows(self, manifests: dict[str, window_pb2.Manifest], size: int) -> dict[str, Any]:
        """The longest window, from a shard that has nothing of it in memory, the copy, or the copy and the texts."""
        cold = [await self._away.read(session, manifests[session]) for session in self._copies]
        copied = [await self._home.read(session, manifests[session]) for session in self._copies]
        warm = []
        for number in range(self._plan.reads):
            self._progress("windows", number, self._plan.reads)
            warm.append(await self._home.read(self._copies[-1], manifests[self._copies[-1]]))
        seconds = {"cold": cold, "copied": copied, "warm": warm}
        rates = {name: round(size / _MB / median(each), 1) for name, each in seconds.items()}
        return {
            "window_bytes": size,
            "window_read_mb_per_s": rates["warm"],
            "window_read_copied_mb_per_s": rates["copied"],
            "window_read_cold_mb_per_s": rates["cold"],
        }

    async def _growth(self) -> list[dict[str, float]]:
        """A session of turns, half of each the message and half the reply."""
        session, half, last = "growth", self._plan.turn_bytes // 2, max(self._plan.lengths)
        said = text(2 * last + self._plan.turn_bytes, self._plan.seed)
        await self._home.create(session)

        async def turn(number: int) -> None:
            self._progress("a session that grows", number, last)
            await self._home.turn(session, said[number : number + half], said[number + half : number + 2 * half])

        client = valkey.connect(load_settings(self._settings).valkey)
        try:
            return await growth.measure(client, self._plan.lengths, turn)
        finally:
            await client.aclose()

    async def _memory(self) -> dict[str, Any]:
        sessions = ",".join(self._sessions)
        loads = {each["session"]: each for each in await self._room("loads", "--sessions", sessions)}
        warm = await self._stored_bytes()
        frozen = {each["session"]: each for each in await self._room("freeze", "--sessions", sessions)}
        cold = await self._stored_bytes()
        return {
            "cold_load_ms": {str(tokens): loads[session]["ms"] for session, tokens in self._sessions.items()},
            "freeze_ms": {str(tokens): frozen[session]["ms"] for session, tokens in self._sessions.items()},
            "memory_per_session_bytes": {
                str(tokens): {"cold": cold[session], "warm": warm[session], "hot": loads[session]["bytes"]}
                for session, tokens in self._sessions.items()
            },
        }

    async def _stored_bytes(self) -> dict[str, int]:
        """What each session's keys take in Valkey."""
        client = valkey.connect(load_settings(self._settings).valkey)
        try:
            found = {}
            for session in self._sessions:
                pattern = f"isthmus:{{{self._tenant}/{session}}}:*"
                keys = {key async for key in valkey.scan_keys(client, pattern)}
                sizes = [await valkey.command(client, "MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys]
                found[session] = sum(size or 0 for size in sizes)
            return found
        finally:
            await client.aclose()
