"""Whether a process is ready, asked over its own protocol."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from services.supervisor.plan import Probe
from services.supervisor.ports import Address

_CHANNEL_OPTIONS = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))


async def is_ready(kind: Probe, address: Address, timeout_ms: int) -> bool:
    """Asks once. False while nobody listens, while the process says that it is not ready, and after `timeout_ms`."""
    asked = _valkey(address.reachable) if kind is Probe.VALKEY else _grpc(address.reachable)
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            return await asked
    except (OSError, grpc.aio.AioRpcError):
        return False


async def until_ready(kind: Probe, address: Address, timeout_ms: int, interval_ms: int) -> None:
    """Asks every `interval_ms` until the process is ready; each single question has `timeout_ms`."""
    while not await is_ready(kind, address, timeout_ms):  # noqa: ASYNC110 - another process tells no event of ours
        await asyncio.sleep(interval_ms / 1_000)


async def _valkey(address: Address) -> bool:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(b"PING\r\n")
        # While it loads its data it answers -LOADING.
        return await reader.readline() == b"+PONG\r\n"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _grpc(address: Address) -> bool:
    # gRPC's own reconnection backs off for longer than a process takes to start, hence a look at the port first.
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.close()
    async with grpc.aio.insecure_channel(str(address), options=_CHANNEL_OPTIONS) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
