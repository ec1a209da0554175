"""What a node of Valkey says of itself, asked on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.supervisor import cluster
from services.supervisor.ports import Address
from services.valkey import command


def client_of(address: Address, timeout_ms: int) -> Redis:
    """A client of one embedded node, which has no password. The caller closes it."""
    timeout_s = timeout_ms / 1_000
    return Redis(
        host=address.host,
        port=address.port,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        decode_responses=True,
        single_connection_client=True,
    )


async def look(client: Redis) -> cluster.View | None:
    """What a node sees of its cluster; None while it does not answer."""
    try:
        # In two words, the answer comes as it is.
        nodes: str = await command(client, "CLUSTER", "NODES")
        return cluster.view(nodes, await command(client, "CLUSTER INFO"), await client.info("replication"))
    except (RedisError, OSError):
        return None


async def take_over(dead: Address, others: Sequence[Address], timeout_ms: int) -> Address | None:
    """Has the replica of a node that is surely dead take its place at once; the replica's address, None if it had none.

    The nodes themselves would first wait for their timeout, and a primary that is back before it refuses writes for two
    seconds. The replica is asked only if it had its primary's writes until now: what was acknowledged is on it.
    """
    taken = await asyncio.gather(*(_takes_over(dead, each, timeout_ms) for each in others))
    return next((address for address, took in zip(others, taken, strict=True) if took), None)


async def _takes_over(dead: Address, address: Address, timeout_ms: int) -> bool:
    client = client_of(address, timeout_ms)
    try:
        replication = await client.info("replication")
        if not cluster.follows(replication, dead):
            return False
        await command(client, "CLUSTER", "FAILOVER", "FORCE")
    except (RedisError, OSError):
        return False
    finally:
        with contextlib.suppress(RedisError, OSError):
            await client.aclose()
    return True


async def role(address: Address, timeout_ms: int) -> str | None:
    """`primary` or `replica`, as the node itself says; None while it does not answer."""
    client = client_of(address, timeout_ms)
    try:
        replication = await client.info("replication")
    except (RedisError, OSError):
        return None
    finally:
        await client.aclose()
    return "primary" if replication.get("role") == "master" else "replica"
