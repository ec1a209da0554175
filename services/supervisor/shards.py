"""Shards that come and go while a mesh runs, one change at a time."""

from __future__ import annotations

import asyncio
from random import SystemRandom
from typing import Final

from services.supervisor import ports
from services.supervisor.errors import SupervisorError, UnknownProcess
from services.supervisor.plan import SHARD, process_name, shard_spec
from services.supervisor.ports import Address
from services.supervisor.state import ProcessPhase, ProcessState
from services.supervisor.supervisor import Supervisor

_LOOPBACK: Final = "127.0.0.1"


class Shards:
    """The shards of a running mesh. A name is given once in a mesh's life: it never stands for two processes."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._next = len(self._present())
        self._changing = asyncio.Lock()

    async def add(self) -> ProcessState:
        """Starts one more; returns when it is ready. Raises SupervisorError."""
        limits = self._supervisor.settings
        async with self._changing:
            if len(self._present()) >= limits.shards_count_max:
                raise SupervisorError(
                    f"{limits.shards_count_max} shards run already, the most that supervisor.shards_count_max allows"
                )
            port = ports.free_ports(_LOOPBACK, 1, limits.port_min, limits.port_max, SystemRandom())[0]
            name = process_name(SHARD, self._next)
            self._next += 1
            await self._supervisor.add(shard_spec(self._supervisor.plan, self._next - 1, Address(_LOOPBACK, port)))
            return self._supervisor.process(name)

    async def drain(self, name: str) -> ProcessState:
        """Has one finish its open turns and go; returns what it was. The last that serves stays.

        Raises SupervisorError.
        """
        async with self._changing:
            present = self._present()
            chosen = next((each for each in present if each.name == name), None)
            if chosen is None:
                raise UnknownProcess(name, [each.name for each in present])
            others = [each for each in present if each.name != name and each.phase is ProcessPhase.READY]
            if not others:
                raise SupervisorError(f"{name} is the last shard that serves; add another one first")
            await self._supervisor.retire(name)
            return chosen

    def _present(self) -> list[ProcessState]:
        return [each for each in self._supervisor.state.processes if each.room == SHARD]
