"""Commands that are asked for while others are on their way share the next trip to their node."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis.asyncio.cluster import ClusterNode

from services.config import ValkeySettings
from services.valkey.client import Client, command, together
from services.valkey.cluster import Cluster, Command, is_passing

# What goes behind every command of a trip, once: a WAIT, or nothing.
Then: TypeAlias = tuple[Command, ...]
# Where a trip goes (None: to the one node that there is), and what goes behind it.
_Way: TypeAlias = tuple[ClusterNode | None, Then]


@dataclass(slots=True)
class _Group:
    """What goes in one trip: the commands, and whom to tell their answers."""

    commands: list[Command] = field(default_factory=list)
    asked: list[asyncio.Future[list[Any]]] = field(default_factory=list)


class Trips:
    """A lone command goes at once; those of one node and one turn of the event loop go in one pipeline.

    What they cost beside their work (a connection, a write, a wake-up, Valkey's fsync, the wait for replicas) is then
    paid once, and the more are under way, the larger the groups become. None waits for another one's answer. One whose
    caller has gone still runs, as one that is on its way does anyhow.
    """

    def __init__(self, client: Client, settings: ValkeySettings) -> None:
        self._client = client
        self._cluster = client if isinstance(client, Cluster) else None
        self._count_max = settings.trip_commands_count_max
        self._under_way: defaultdict[_Way, int] = defaultdict(int)
        self._leaving: dict[_Way, _Group] = {}
        self._trips: set[asyncio.Task[None]] = set()

    async def together(self, asked: Command, then: Then = ()) -> list[Any]:
        """The command's answer, and those of `then`, sent behind it on the same connection to the same node.

        Those of `then` are of all that went in the trip. Raises the command's error, or the trip's; an error of `then`
        stands in its answer's place.
        """
        node = await self._cluster.home(asked) if self._cluster else None
        if self._cluster and node is None:
            return await self._alone(asked, then)
        way = (node, then)
        self._under_way[way] += 1
        try:
            return await (self._alone(asked, then) if self._under_way[way] == 1 else self._beside_others(way, asked))
        finally:
            self._under_way[way] -= 1
            if not self._under_way[way]:
                del self._under_way[way]

    async def aclose(self) -> None:
        """Waits for what is under way without a caller; it ends by the deadlines of its own commands."""
        while self._trips:
            await asyncio.wait(self._trips)

    async def _alone(self, asked: Command, then: Then) -> list[Any]:
        if not then:
            return [await command(self._client, *asked)]
        return await together(self._client, [asked, *then])

    async def _beside_others(self, way: _Way, asked: Command) -> list[Any]:
        answers = await self._joined(way, asked)
        # A cluster's client knows where the command has to go instead, and what is worth waiting for.
        if self._cluster and any(is_passing(answer) for answer in answers):
            return await self._alone(asked, way[1])
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers

    def _joined(self, way: _Way, asked: Command) -> asyncio.Future[list[Any]]:
        group = self._leaving.get(way)
        if group is None:
            group = self._leaving[way] = _Group()
            trip = asyncio.create_task(self._travel(way, group))
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        group.commands.append(asked)
        group.asked.append(answers)
        if len(group.commands) == self._count_max:
            del self._leaving[way]
        return answers

    async def _travel(self, way: _Way, group: _Group) -> None:
        if self._leaving.get(way) is group:
            del self._leaving[way]
        node, then = way
        count = len(group.commands)
        answers: list[Any] | BaseException = asyncio.CancelledError()
        try:
            answers = await self._carried(node, [*group.commands, *then])
        except Exception as error:  # noqa: BLE001 - raised where each command was asked for
            answers = error
        finally:
            for position, asked in enumerate(group.asked):
                if isinstance(answers, BaseException):
                    _fail(asked, answers)
                elif not asked.done():
                    asked.set_result([answers[position], *answers[count:]])

    async def _carried(self, node: ClusterNode | None, commands: Sequence[Command]) -> list[Any]:
        if self._cluster and node:
            return await self._cluster.carried(node, commands)
        pipeline = self._client.pipeline(transaction=False)
        for parts in commands:
            pipeline.execute_command(*parts)
        return list(await pipeline.execute(raise_on_error=False))


def _fail(asked: asyncio.Future[list[Any]], error: BaseException) -> None:
    if asked.done():
        return
    if isinstance(error, asyncio.CancelledError):
        asked.cancel()
    else:
        asked.set_exception(error)
