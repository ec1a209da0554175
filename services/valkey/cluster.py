"""A client of a Valkey cluster: primaries alone, bounded connections, and commands that outlast a failover."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, PipelineCommand
from redis.asyncio.connection import parse_url
from redis.exceptions import AskError, DataError, MovedError, RedisClusterException, SlotNotCoveredError
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from services.config import ValkeySettings
from services.valkey.address import Address
from services.valkey.connection import Encrypted, Plain
from services.valkey.failover import Patience, node_failed, passes
from services.valkey.tls import Tls

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Argument]
_T = TypeVar("_T")

_ASKING: Final = ("ASKING",)


class Cluster(RedisCluster):
    """Sends each command to the primary of its keys' slot, so that who writes reads what he has written.

    When that node is away, or is no longer the one, the topology is read again and the command sent again, until
    `failover_wait_ms_max` after its first failure. Raises redis.exceptions.RedisError alone.
    """

    def __init__(self, settings: ValkeySettings, address: Address) -> None:
        options: dict[str, Any] = {**parse_url(address.node_url(*address.hosts[0]))}
        for name in ("host", "port", "db", "connection_class"):
            options.pop(name, None)
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            # A shard without a primary must not end what goes to the others.
            require_full_coverage=False,
            max_connections=settings.connections_count_max,
            socket_connect_timeout=settings.connect_ms_max / 1000,
            socket_timeout=settings.command_ms_max / 1000,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            decode_responses=False,
            ssl=address.tls,
            **options,
        )
        self._settings = settings
        # redis-py's nodes refuse a command beyond their connections; here it waits for its place.
        self._places = asyncio.Semaphore(settings.connections_count_max)
        self._refreshed_at = 0.0
        self._connect_by(Tls(address.options) if address.tls else None)

    def _connect_by(self, tls: Tls | None) -> None:
        """Has the nodes connect in our way: those of the URL, and those that are found by them."""
        connection_class: type[Plain | Encrypted] = Encrypted if tls else Plain
        options = {"tls": tls} if tls else {}
        for kwargs in (self.connection_kwargs, self.nodes_manager.connection_kwargs):
            kwargs.update(options, connection_class=connection_class)
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = connection_class
            node.connection_kwargs.update(options)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """One command, at the primary of its keys; those without a key go where redis-py's table says."""
        if kwargs.get("target_nodes") or args[0] in self.command_flags:
            async with self._place():
                try:
                    return await super().execute_command(*args, **kwargs)
                except RedisClusterException as error:
                    raise ValkeyConnectionError(str(error)) from error
        (answer,) = await self._outlasting(lambda: self._routed([args], kwargs))
        return answer

    async def together(self, commands: Sequence[Command]) -> list[Any]:
        """The answers of commands sent in one trip on one connection to the primary of the first one's keys.

        Raises the first one's error; an error of another stands in its answer's place.
        """
        return await self._outlasting(lambda: self._routed(commands, {}))

    async def home(self, asked: Command) -> ClusterNode | None:
        """The primary of the command's keys, as far as the topology is known; None if it has to be read first."""
        try:
            return None if self._initialize else self._primary(await self._slot(asked))
        except SlotNotCoveredError:
            return None

    async def carried(self, node: ClusterNode, commands: Sequence[Command]) -> list[Any]:
        """One attempt at commands in one trip on one connection: the answers, errors among them.

        What has an error that passes may be sent again with `together`: the topology has been learnt anew then. Raises
        what the whole trip failed of if that does not pass.
        """
        stack = _stack(commands)
        async with self._place():
            try:
                await node.execute_pipeline(stack)
            except Exception as error:
                if not passes(error):
                    raise
                for each in stack:
                    each.result = error
            passing = [each.result for each in stack if is_passing(each.result)]
            moved = [error for error in passing if isinstance(error, MovedError)]
            # One reading of the topology is enough for all; a slot that is just moving is still where it was.
            other = [error for error in passing if not isinstance(error, AskError)]
            for lesson in moved or other[:1]:
                await self._learn(node, lesson)
        return [each.result for each in stack]

    async def aclose(self) -> None:
        """Closes every connection, also of nodes that have left the cluster."""
        # redis-py closes nothing if the topology is to be read again, as it is after a failure.
        self._initialize = False
        await super().aclose()
        manager = self.nodes_manager
        closing: list[Any] = [manager, *manager.nodes_cache.values(), *manager.startup_nodes.values()]
        tasks = [task for each in closing for task in each._background_tasks]
        await asyncio.gather(*tasks, return_exceptions=True)

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> ClusterPipeline:
        """A pipeline without a transaction. Its commands may be of any slots; those of one node go in one trip."""
        del transaction, shard_hint
        return _Pipeline(self)  # type: ignore[abstract]

    async def each(self, commands: Sequence[PipelineCommand]) -> None:
        """Runs every command at its own primary and leaves answer or error in it as its `result`."""
        await self._outlasting(lambda: self._trips(commands))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        bound_s = self._settings.pool_wait_ms_max / 1000 if self._places.locked() else None
        try:
            async with asyncio.timeout(bound_s):
                await self._places.acquire()
        except TimeoutError:
            message = f"No connection available: all {self._settings.connections_count_max} are in use"
            raise ValkeyConnectionError(message) from None
        try:
            yield
        finally:
            self._places.release()

    async def _outlasting(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        patience = Patience(self._settings, asyncio.get_running_loop().time)
        async with self._place():
            while True:
                try:
                    return await attempt()
                except Exception as error:
                    pause_s = patience.pause_s() if passes(error) else None
                    if pause_s is None and isinstance(error, RedisClusterException):
                        raise ValkeyConnectionError(str(error)) from error
                    if pause_s is None:
                        raise
                await asyncio.sleep(pause_s)

    async def _routed(self, commands: Sequence[Command], options: dict[str, Any]) -> list[Any]:
        """One attempt, and another at the node that the first one's answer names."""
        await self.initialize()
        node = self._primary(await self._slot(commands[0]))
        try:
            return await _ask(node, commands, options)
        except MovedError as error:
            await self._moved(error)
            return await _ask(self._primary(error.slot_id), commands, options)
        except AskError as error:
            return await self._asked(error, commands, options)
        except Exception as error:
            await self._learn(node, error)
            raise

    async def _asked(self, error: AskError, commands: Sequence[Command], options: dict[str, Any]) -> list[Any]:
        """The answers of the node that the slot is moving to; its other keys are still where they were."""
        node = self.get_node(error.host, error.port)
        if node is None:
            await self._refresh(None)
            raise error
        return (await _ask(node, [_ASKING, *commands], options))[1:]

    async def _trips(self, commands: Sequence[PipelineCommand]) -> None:
        """Sends what has no answer yet, or one that passes; raises such an error if one is left."""
        await self.initialize()
        trips: dict[ClusterNode, list[PipelineCommand]] = defaultdict(list)
        for command in commands:
            if command.result is None or is_passing(command.result):
                trips[self._primary(await self._slot(command.args))].append(command)
        await asyncio.gather(*(self._trip(node, trip) for node, trip in trips.items()))
        passing = [command.result for trip in trips.values() for command in trip if is_passing(command.result)]
        if passing:
            raise passing[0]

    async def _trip(self, node: ClusterNode, commands: list[PipelineCommand]) -> None:
        try:
            await node.execute_pipeline(commands)
        except Exception as error:
            if not passes(error):
                raise
            for command in commands:
                command.result = error
        for command in commands:
            if type(command.result) is AskError:
                (command.result,) = await self._asked(command.result, [command.args], command.kwargs)
            elif is_passing(command.result):
                await self._learn(node, command.result)

    async def _slot(self, command: Command) -> int:
        try:
            return await self._determine_slot(*command)  # type: ignore[arg-type]
        except RedisClusterException as error:
            # A mistake of ours that no waiting mends: keys of several slots, or none at all.
            raise DataError(str(error)) from None

    def _primary(self, slot: int) -> ClusterNode:
        try:
            return self.nodes_manager.get_node_from_slot(slot)
        except KeyError:
            raise SlotNotCoveredError(f"no node of the cluster serves slot {slot}") from None

    async def _learn(self, node: ClusterNode, error: Exception) -> None:
        if isinstance(error, MovedError):
            await self._moved(error)
        elif passes(error):
            await self._refresh(node if node_failed(error) else None)

    async def _moved(self, error: MovedError) -> None:
        if error.slot_id in self.nodes_manager.slots_cache:
            await self.nodes_manager.move_slot(error)
        else:
            await self._refresh(None)

    async def _refresh(self, failed: ClusterNode | None) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._refreshed_at < self._settings.topology_refresh_ms_min / 1000:
            return
        self._refreshed_at = now
        try:
            await self.nodes_manager.initialize(last_failed_node_name=failed.name if failed else None)
        except RedisClusterException:
            # No node answers: the old topology stands, and the command's own error says what happened.
            return


class _Pipeline(ClusterPipeline):
    """redis-py's commands, our way to the nodes: its own would close every connection when one of them breaks."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._cluster = cluster
        self._commands: list[PipelineCommand] = []

    def execute_command(self, *args: Any, **kwargs: Any) -> _Pipeline:
        self._commands.append(PipelineCommand(len(self._commands), *args, **kwargs))
        return self

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        del allow_redirections
        commands, self._commands = self._commands, []
        await self._cluster.each(commands)
        answers = [command.result for command in commands]
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors and raise_on_error:
            raise errors[0]
        return answers


def is_passing(result: object) -> bool:
    """Whether it is an error, and one that the command may yet get over."""
    return isinstance(result, Exception) and passes(result)


async def _ask(node: ClusterNode, commands: Sequence[Command], options: dict[str, Any]) -> list[Any]:
    """The answers, all over one connection. Raises the first one's error, and any that passes."""
    if len(commands) == 1:
        return [await node.execute_command(*commands[0], **options)]
    stack = _stack(commands, options)
    await node.execute_pipeline(stack)
    first = 1 if commands[0] is _ASKING else 0
    for position, command in enumerate(stack):
        if isinstance(command.result, Exception) and (position <= first or passes(command.result)):
            raise command.result
    return [command.result for command in stack]


def _stack(commands: Sequence[Command], options: dict[str, Any] | None = None) -> list[PipelineCommand]:
    return [PipelineCommand(position, *command, **(options or {})) for position, command in enumerate(commands)]
