"""The mesh that is hit: which process is what now, how it is struck, and whether it is whole again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from random import SystemRandom
from typing import Final, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.cli.chaos.plan import Act, Pair, Part, Target, Topology
from services.supervisor import cluster
from services.supervisor.plan import GATEWAY, SHARD, VALKEY, ProcessSpec, shard_spec
from services.supervisor.ports import Address, free_ports
from services.supervisor.state import ProcessPhase, ProcessState
from services.supervisor.supervisor import Supervisor
from services.valkey import command

Views: TypeAlias = Mapping[str, cluster.View]

_ROOMS: Final = {Part.SHARD: SHARD, Part.GATEWAY: GATEWAY, Part.INFERENCE: "inference"}
_LOOPBACK: Final = "127.0.0.1"
_ASK_S_MAX: Final = 1.0
_POLL_S: Final = 0.05


class StruckMesh:
    """A supervisor's mesh. Ask for its topology before each strike; `release` after one that was cut short."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._held: list[str] = []
        self._replicas: dict[str, str] = {}
        self._shards_count = 0

    @property
    def gateways(self) -> list[str]:
        """Where the gateways listen for gRPC; a restart does not change it."""
        return [each.endpoint for each in self._processes(GATEWAY)]

    async def topology(self) -> Topology:
        """The processes that run now. Raises RedisError or TimeoutError while a node of Valkey does not answer."""
        nodes = self._processes(VALKEY)
        pairs = (Pair(nodes[0].name),) if len(nodes) == 1 else _pairs(await _views(nodes))
        self._replicas = {pair.primary: pair.replica for pair in pairs if pair.replica is not None}
        others = {part: [each.name for each in self._processes(room)] for part, room in _ROOMS.items()}
        return Topology(pairs, others)

    async def strike(self, targets: Sequence[Target], seconds_max: float) -> None:
        """Does it all at once; returns when what was killed is dead, added is ready, drained is gone.

        A primary is held down until its replica has been voted in, and starts again then: what is acknowledged waits
        for a second copy. Raises TimeoutError if that does not happen.
        """
        killed = [self._supervisor.process(target.name) for target in targets if target.act is Act.KILL]
        for each in killed:
            if each.pid is not None:
                os.kill(each.pid, signal.SIGKILL)
        await asyncio.gather(*(self._others(target) for target in targets))
        while any(each.alive() for each in killed):  # noqa: ASYNC110 - a process that dies sets no event of ours
            await asyncio.sleep(_POLL_S)
        for name in self._held:
            await self._promoted(self._replicas[name], seconds_max)
        self.release()

    def release(self) -> None:
        """Lets what was held down start again."""
        while self._held:
            self._supervisor.release(self._held.pop())

    async def whole(self, seconds_max: float) -> None:
        """Waits until every process is ready and Valkey has all its nodes. Raises TimeoutError."""
        deadline = time.monotonic() + seconds_max
        while (lack := await self._lack()) is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the mesh was not whole within {seconds_max:g} s: {lack}")
            await asyncio.sleep(_POLL_S)

    def _processes(self, room: str) -> list[ProcessState]:
        return [each for each in self._supervisor.state.processes if each.room == room]

    async def _others(self, target: Target) -> None:
        match target.act:
            case Act.HOLD:
                self._held.append(target.name)
                await self._supervisor.hold(target.name)
            case Act.ADD:
                await self._supervisor.add(self._next_shard())
            case Act.DRAIN:
                await self._supervisor.retire(target.name)
            case Act.KILL:
                pass

    def _next_shard(self) -> ProcessSpec:
        """One more shard, under a number that none of this run has had."""
        self._shards_count = max(self._shards_count, len(self._processes(SHARD)))
        limits = self._supervisor.settings
        port = free_ports(_LOOPBACK, 1, limits.port_min, limits.port_max, SystemRandom())[0]
        self._shards_count += 1
        return shard_spec(self._supervisor.plan, self._shards_count - 1, Address(_LOOPBACK, port))

    async def _promoted(self, name: str, seconds_max: float) -> None:
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError):
                if (await _view(self._supervisor.process(name).endpoint)).own.primary_id is None:
                    return
            await asyncio.sleep(_POLL_S)
        raise TimeoutError(f"{name} was not voted in within {seconds_max:g} s")

    async def _lack(self) -> str | None:
        """What is missing for the mesh to be whole."""
        for each in self._supervisor.state.processes:
            if each.phase is not ProcessPhase.READY or not each.alive():
                return f"{each.name} is {each.phase.value}"
        nodes = self._processes(VALKEY)
        if len(nodes) == 1:
            return None
        try:
            return cluster.unready(list((await _views(nodes)).values()))
        except (RedisError, TimeoutError) as error:
            return f"a node of Valkey does not answer: {error}"


def _pairs(views: Views) -> tuple[Pair, ...]:
    replicas = {view.own.primary_id: name for name, view in views.items() if view.own.primary_id is not None}
    return tuple(
        Pair(name, replicas.get(view.own.id)) for name, view in sorted(views.items()) if view.own.primary_id is None
    )


async def _views(nodes: Sequence[ProcessState]) -> Views:
    views = await asyncio.gather(*(_view(each.endpoint) for each in nodes))
    return dict(zip((each.name for each in nodes), views, strict=True))


async def _view(endpoint: str) -> cluster.View:
    host, _, port = endpoint.rpartition(":")
    async with Redis(host=host, port=int(port), decode_responses=True, socket_timeout=_ASK_S_MAX) as node:
        # In two words, the answer comes as it is.
        nodes, info = await command(node, "CLUSTER", "NODES"), await command(node, "CLUSTER INFO")
        return cluster.view(nodes, info, await node.info("replication"))
