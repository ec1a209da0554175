"""The client of Valkey, one node or a cluster, and what both are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff
from redis.exceptions import ConnectionError as ValkeyConnectionError

from services.config import ValkeySettings
from services.valkey.address import Address, parse
from services.valkey.cluster import Argument, Cluster, Command
from services.valkey.connection import Encrypted, Plain
from services.valkey.tls import Tls

Client: TypeAlias = Redis | Cluster
Handle: TypeAlias = Redis | ClusterNode

_SCAN_COUNT: Final = 1_000


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """What one primary's data takes, and its bound; 0 where it has none."""

    name: str
    used_bytes: int
    max_bytes: int


def connect(settings: ValkeySettings) -> Client:
    """A client with bounded connections, deadlines, and retries on what passes alone. Connects when first used.

    Answers are bytes. A command whose connection breaks is sent again, so it may run twice: each one that writes has
    to be a script that bears it. Raises ConfigError for a URL that cannot be used; the client's commands raise
    redis.exceptions.RedisError, `failover.expected` says which of them mean that Valkey is away. The caller closes it
    with `aclose()`.
    """
    address = parse(settings.url)
    return Cluster(settings, address) if address.cluster else _single(settings, address)


def _single(settings: ValkeySettings, address: Address) -> Redis:
    backoff = FullJitterBackoff(cap=settings.retry_backoff_ms_max / 1000, base=settings.retry_backoff_ms_min / 1000)
    pool = BlockingConnectionPool.from_url(
        address.node_url(*address.hosts[0]),
        max_connections=settings.connections_count_max,
        timeout=settings.pool_wait_ms_max / 1000,
        socket_connect_timeout=settings.connect_ms_max / 1000,
        socket_timeout=settings.command_ms_max / 1000,
        retry=Retry(backoff, settings.retries_count_max, supported_errors=(ValkeyConnectionError,)),
        decode_responses=False,
    )
    pool.connection_class = Plain
    if address.tls:
        pool.connection_class = Encrypted
        pool.connection_kwargs["tls"] = Tls(address.options)
    return Redis.from_pool(pool)


def is_cluster(client: Client) -> bool:
    """Whether keys of different hash tags may be on different nodes."""
    return isinstance(client, Cluster)


async def command(client: Client | Handle, *parts: Argument) -> Any:
    """One command's answer; redis-py's own method has no types."""
    typed: Any = client
    return await typed.execute_command(*parts)


async def together(client: Client, commands: Sequence[Command]) -> list[Any]:
    """The answers of commands sent in one trip on one connection, to the node of the first one's keys.

    Raises the first one's error; an error of another stands in its answer's place.
    """
    if isinstance(client, Cluster):
        return await client.together(commands)
    pipeline = client.pipeline(transaction=False)
    for parts in commands:
        pipeline.execute_command(*parts)
    answers: list[Any] = await pipeline.execute(raise_on_error=False)
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers


async def primaries(client: Client) -> list[Handle]:
    """The nodes that hold the data: each takes `execute_command`."""
    if not isinstance(client, Cluster):
        return [client]
    await client.initialize()
    return list(client.get_primaries())


async def memory(client: Client) -> list[NodeMemory]:
    """What the data of each primary takes."""
    return [_memory(node, await command(node, "INFO", "memory")) for node in await primaries(client)]


async def scan_keys(client: Client, pattern: str, count: int = _SCAN_COUNT) -> AsyncIterator[bytes]:
    """The keys of all primaries that match; some may come twice. Raises when a node goes away in between."""
    for node in await primaries(client):
        cursor = 0
        while True:
            cursor, keys = await command(node, "SCAN", cursor, "MATCH", pattern, "COUNT", count)
            for key in keys:
                yield key
            if not cursor:
                break


def _memory(node: Handle, info: Mapping[str, int]) -> NodeMemory:
    name = node.name if isinstance(node, ClusterNode) else "valkey"
    return NodeMemory(name, info["used_memory"], info["maxmemory"])
