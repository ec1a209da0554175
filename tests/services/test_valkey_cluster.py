"""A cluster that loses nodes and moves slots: what is acknowledged stays, and what passes is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis.exceptions
from isthmus.errors.v1 import errors_pb2

from services.config import Settings, ValkeySettings
from services.errors import IsthmusError
from services.valkey import Ack, Acknowledger, Client, Script, command, connect
from tests.support.eventually import eventually
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.valkey_server import ValkeyServer

pytestmark = pytest.mark.foreign_keys("*")

KEY = "{acme/s1}:log"


@pytest.fixture
def quick(cluster_settings: Settings) -> ValkeySettings:
    """Waits as short as a test can bear: a frozen node is found out by its silence."""
    short = {"command_ms_max": 1_000, "replica_wait_ms_max": 300, "disk_wait_ms_max": 600}
    return cluster_settings.valkey.model_copy(update=short)


@pytest_asyncio.fixture
async def client(quick: ValkeySettings) -> AsyncIterator[Client]:
    connected = connect(quick)
    yield connected
    await connected.aclose()


@pytest.fixture
def add(tmp_path: Path) -> Script:
    path = tmp_path / "add.lua"
    path.write_text("redis.call('SADD', KEYS[1], ARGV[1]) return redis.call('SCARD', KEYS[1])")
    return Script(path)


@pytest.mark.parametrize("disk", [False, True])
async def test_a_write_is_acknowledged_by_a_replica(
    client: Client, quick: ValkeySettings, add: Script, disk: bool
) -> None:
    assert await Acknowledger(client, quick).run(add, [KEY], ["a"], disk=disk) == (1, Ack(1, disk))


@pytest.mark.parametrize("disk", [False, True])
async def test_without_its_replica_a_write_is_refused_or_says_that_it_is_degraded(
    client: Client, quick: ValkeySettings, add: Script, valkey_cluster: ValkeyCluster, disk: bool
) -> None:
    replica = valkey_cluster.replica_of(KEY)
    strict = Acknowledger(client, quick)
    lenient = Acknowledger(client, quick.model_copy(update={"replica_policy": "degrade"}))
    await strict.run(add, [KEY], ["first"])
    valkey_cluster.freeze(replica)
    with pytest.raises(IsthmusError, match="0 of 1 replicas hold it") as refused:
        await strict.run(add, [KEY], ["a"], disk=disk)
    assert refused.value.reason == errors_pb2.ERROR_REASON_NOT_REPLICATED
    assert refused.value.retry_after_ms
    answer, ack = await lenient.run(add, [KEY], ["b"], disk=disk)
    assert (answer, ack.degraded, ack.replicas) == (3, True, 0)
    valkey_cluster.thaw(replica)
    assert await _until_acknowledged(strict, add, "c") == 4


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_what_was_acknowledged_outlives_its_primary(
    client: Client, quick: ValkeySettings, add: Script, valkey_cluster: ValkeyCluster, how: str
) -> None:
    acknowledger = Acknowledger(client, quick)
    acknowledged: set[str] = set()

    async def write(writer: int) -> None:
        for number in range(1_000_000):
            member = f"{writer}-{number}"
            await acknowledger.run(add, [KEY], [member])
            acknowledged.add(member)

    writers = [asyncio.create_task(write(writer)) for writer in range(8)]
    await eventually(lambda: len(acknowledged) > 500)
    primary = valkey_cluster.primary_of(KEY)
    getattr(valkey_cluster, how)(primary)
    before = len(acknowledged)
    # The survivor has no replica, so every writer is refused in the end: none of them is acknowledged for nothing.
    errors = await asyncio.gather(*writers, return_exceptions=True)
    assert {error.reason for error in errors if isinstance(error, IsthmusError)} == {
        errors_pb2.ERROR_REASON_NOT_REPLICATED
    }
    assert len(acknowledged) - before <= len(writers)
    assert valkey_cluster.primary_of(KEY) is not primary
    kept = {member.decode() for member in await command(client, "SMEMBERS", KEY)}
    assert acknowledged <= kept
    getattr(valkey_cluster, {"kill": "restart", "freeze": "thaw"}[how])(primary)
    assert await _until_acknowledged(acknowledger, add, "again") == len(kept) + 1


async def test_reads_and_pipelines_wait_for_a_failover(client: Client, valkey_cluster: ValkeyCluster) -> None:
    keys = [f"{{session-{number}}}" for number in range(12)]
    for key in keys:
        await command(client, "SET", key, key)
    node = valkey_cluster.primary_of(keys[0])
    await asyncio.to_thread(node.command, "WAIT", 1, 1_000)
    valkey_cluster.kill(node)
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
    answers, answer = await asyncio.gather(pipeline.execute(), command(client, "GET", keys[0]))
    assert [answer, *answers] == [key.encode() for key in [keys[0], *keys]]


async def test_a_cluster_that_stays_away_is_an_error_in_bounded_time(
    quick: ValkeySettings, valkey_cluster: ValkeyCluster, add: Script
) -> None:
    client = connect(quick.model_copy(update={"failover_wait_ms_max": 200}))
    valkey_cluster.stop()
    for attempt in (command(client, "GET", KEY), Acknowledger(client, quick).run(add, [KEY], ["a"])):
        with pytest.raises(redis.exceptions.ConnectionError):
            async with asyncio.timeout(20):
                await attempt
    await client.aclose()


async def test_a_slot_that_moves_is_followed(
    client: Client, quick: ValkeySettings, add: Script, valkey_cluster: ValkeyCluster
) -> None:
    acknowledger = Acknowledger(client, quick)
    await acknowledger.run(add, ["{other}"], ["a"])
    source = valkey_cluster.primary_of(KEY)
    target = next(node for node in map(valkey_cluster.primary_of, "abcdefghijkl") if node is not source)
    slot = source.command("CLUSTER", "KEYSLOT", KEY)
    source_id, target_id = (node.command("CLUSTER", "MYID").decode() for node in (source, target))
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    assert await acknowledger.run(add, [KEY], ["asked"]) == (1, Ack(1))
    pipeline = client.pipeline(transaction=False)
    pipeline.scard(KEY)
    pipeline.scard("{other}")
    assert await pipeline.execute() == [1, 1]
    assert source.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    for node in (target, source):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    assert await acknowledger.run(add, [KEY], ["moved"]) == (2, Ack(1))
    assert await command(client, "SCARD", KEY) == 2


async def test_one_node_confirms_its_disk_alone(settings: Settings, add: Script, tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, append_only=True)
    server.start()
    try:
        mine = settings.valkey.model_copy(update={"url": server.url})
        client = connect(mine)
        assert await Acknowledger(client, mine).run(add, [KEY], ["a"], disk=True) == (1, Ack(0, on_disk=True))
        await client.aclose()
    finally:
        server.kill()


async def test_a_disk_that_is_not_written_confirms_nothing(settings: Settings, add: Script) -> None:
    client = connect(settings.valkey)
    with pytest.raises(IsthmusError, match="appendonly is disabled") as refused:
        await Acknowledger(client, settings.valkey).run(add, [KEY], ["a"], disk=True)
    assert refused.value.reason == errors_pb2.ERROR_REASON_NOT_REPLICATED
    await client.aclose()


async def _until_acknowledged(acknowledger: Acknowledger, script: Script, member: str) -> int:
    """The script's answer, once a replica is back that confirms it."""

    async def attempt() -> int:
        try:
            answer, _ = await acknowledger.run(script, [KEY], [member])
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_NOT_REPLICATED:
                raise
            return 0
        return int(answer)

    return await eventually(attempt, timeout_s=30)
