"""The clients of a load test, as processes: started together, asked how far they are, their figures put together."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from services.cli.bench.histogram import Histogram
from services.cli.errors import CliError
from services.supervisor.plan import RUNTIME

_LINE_BYTES_MAX: Final = 1 << 20
_SAID_CHARS_MAX: Final = 4_000


@dataclass(slots=True)
class Heard:
    """What all clients have measured together."""

    latencies: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    last_s: float = 0.0

    def add(self, told: dict[str, Any]) -> None:
        """One client's figures."""
        self.latencies = self.latencies.merged(Histogram.of(told["latencies"]))
        self.errors.update(told["errors"])
        self.last_s = max(self.last_s, told["last_s"])


class Client:
    """One process of `module`, which is given `errand` as JSON."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self._module = module
        self._process = process
        self._said = asyncio.create_task(process.stderr.read() if process.stderr else _nothing())
        self.done = 0

    @classmethod
    @asynccontextmanager
    async def started(cls, module: str, errand: msgspec.Struct) -> AsyncIterator[Client]:
        """The client, which ends with the context."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, msgspec.json.encode(errand).decode()),
            env={**RUNTIME, **os.environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        client = cls(module, process)
        try:
            yield client
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await client._said

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def ready(self) -> None:
        """Returns once it has its sessions."""
        while "ready" not in await self._line():
            pass

    def go(self) -> None:
        """Has it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def figures(self) -> dict[str, Any]:
        """What it measured, once it is through; `done` says meanwhile how far it is. CliError if it fails."""
        while True:
            line = await self._line()
            self.done = line.get("done", self.done)
            if "figures" in line:
                figures: dict[str, Any] = line["figures"]
                return figures

    async def ended(self) -> None:
        """Returns when it has cleared up. CliError if it failed at that."""
        if await self._process.wait():
            await self._failed()

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            await self._failed()
        told: dict[str, Any] = json.loads(line)
        return told

    async def _failed(self) -> None:
        said = (await self._said).decode(errors="replace")[-_SAID_CHARS_MAX:]
        raise CliError("BENCH_FAILED", f"{self._module} ended with {self._process.returncode}; it said: {said}")


@asynccontextmanager
async def clients(module: str, errands: Sequence[msgspec.Struct]) -> AsyncIterator[list[Client]]:
    """Clients that are ready to begin."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(Client.started(module, errand)) for errand in errands]
        await asyncio.gather(*(client.ready() for client in started))
        yield started


async def heard(clients: Sequence[Client]) -> Heard:
    """Has all of them begin at once; what they measured."""
    for client in clients:
        client.go()
    found = Heard()
    for figures in await asyncio.gather(*(client.figures() for client in clients)):
        found.add(figures)
    await asyncio.gather(*(client.ended() for client in clients))
    return found


async def _nothing() -> bytes:
    return b""
