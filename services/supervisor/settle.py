"""Brings a mesh's Valkey to where rooms can use it: a cluster formed and whole, or one's own found to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from services.config import ConfigError, SupervisorSettings, ValkeySettings
from services.supervisor import cluster, nodes
from services.supervisor.errors import SupervisorError, ValkeyUnusable
from services.supervisor.plan import ValkeyMode, ValkeyPlan
from services.supervisor.ports import Address
from services.valkey import command, connect, redacted

_REFUSED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)


async def settle(valkey: ValkeyPlan, settings: SupervisorSettings, timeout_s: float) -> None:
    """Returns once rooms can use Valkey. Raises SupervisorError saying why they cannot."""
    match valkey.mode:
        case ValkeyMode.CLUSTER:
            ports = [each.address for each in valkey.processes]
            await _form(list(zip(ports, valkey.bus_ports, strict=True)), settings, timeout_s)
        case ValkeyMode.OWN:
            await _reach(valkey.settings)
        case ValkeyMode.SINGLE:
            pass


async def _form(addresses: Sequence[tuple[Address, int]], settings: SupervisorSettings, timeout_s: float) -> None:
    """Gives the nodes what they still need to be a cluster, and waits until it is whole."""
    clients = [nodes.client_of(address, settings.probe_ms_max) for address, _ in addresses]
    why = "its nodes do not answer"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                views = await asyncio.gather(*(nodes.look(each) for each in clients))
                whole = [each for each in views if each is not None]
                if len(whole) == len(views):
                    unready = cluster.unready(whole)
                    if unready is None:
                        return
                    why = await _take(clients, cluster.next_steps(whole, addresses)) or unready
                await asyncio.sleep(settings.probe_interval_ms / 1_000)
    except TimeoutError:
        raise SupervisorError(f"the Valkey cluster was not whole after {timeout_s * 1_000:.0f} ms: {why}") from None
    finally:
        await asyncio.gather(*(each.aclose() for each in clients))


async def _take(clients: Sequence[Redis], steps: Sequence[cluster.Step]) -> str | None:
    """Sends the commands; what the last refusal was, if any. Another look at the nodes decides about it."""
    refusal = None
    for step in steps:
        try:
            await command(clients[step.number], *step.command)
        except RedisError as error:
            refusal = f"node {step.number} refuses {' '.join(step.command[:2])}: {error}"
    return refusal


async def _reach(settings: ValkeySettings) -> None:
    where = redacted(settings.url)
    try:
        client = connect(settings)
    except ConfigError as error:
        raise ValkeyUnusable(where, f"cannot be asked ({error}); correct the URL, or the file") from None
    try:
        await command(client, "PING")
    except _REFUSED as error:
        raise ValkeyUnusable(where, f"refuses the credentials ({error}); correct the user or the password") from None
    except ResponseError as error:
        raise ValkeyUnusable(where, f"does not serve: {error}") from None
    except (RedisError, OSError) as error:
        raise ValkeyUnusable(where, f"cannot be reached ({error}); start it, or correct the URL") from None
    finally:
        await client.aclose()
