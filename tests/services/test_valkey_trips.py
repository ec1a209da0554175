"""Commands that share a trip: each gets its own answer, and the wait behind them is all of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import ResponseError

from services.config import Settings, ValkeySettings
from services.errors import IsthmusError
from services.valkey import Ack, Acknowledger, Client, Script, command, connect, primaries
from services.valkey.trips import Trips
from tests.support.valkey_cluster import ValkeyCluster

pytestmark = pytest.mark.foreign_keys("*")

T = TypeVar("T")

COUNT_MAX = 4
# All in one slot, so that they share their trips on a cluster too; and in many slots.
NEAR = [f"{{near}}:{number}" for number in range(12)]
FAR = [f"{{far-{number}}}" for number in range(40)]
WAIT = (("WAIT", 1, 300),)


@pytest.fixture(params=["settings", "cluster_settings"], ids=["node", "cluster"])
def chosen(request: pytest.FixtureRequest) -> ValkeySettings:
    settings: Settings = request.getfixturevalue(request.param)
    return settings.valkey.model_copy(update={"trip_commands_count_max": COUNT_MAX, "failover_wait_ms_max": 200})


@pytest_asyncio.fixture
async def client(chosen: ValkeySettings) -> AsyncIterator[Client]:
    connected = connect(chosen)
    # A cluster is not known before its first command, and what is asked for until then goes alone.
    await command(connected, "GET", NEAR[0])
    yield connected
    await connected.aclose()


@pytest.fixture
def trips(client: Client, chosen: ValkeySettings) -> Trips:
    return Trips(client, chosen)


@pytest.fixture
def cluster(cluster_settings: Settings) -> ValkeySettings:
    short = {"command_ms_max": 1_000, "replica_wait_ms_max": 300, "disk_wait_ms_max": 600}
    return cluster_settings.valkey.model_copy(update=short)


@pytest_asyncio.fixture
async def clustered(cluster: ValkeySettings) -> AsyncIterator[Client]:
    connected = connect(cluster)
    await command(connected, "GET", NEAR[0])
    yield connected
    await connected.aclose()


@pytest.fixture
def add(tmp_path: Path) -> Script:
    path = tmp_path / "add.lua"
    path.write_text("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    return Script(path)


async def at_once(asked: list[Awaitable[T]]) -> list[T | BaseException]:
    return await asyncio.gather(*asked, return_exceptions=True)


async def calls(client: Client, name: str) -> int:
    stats = [await command(node, "INFO", "commandstats") for node in await primaries(client)]
    return sum(each.get(f"cmdstat_{name}", {"calls": 0})["calls"] for each in stats)


async def test_each_of_many_commands_gets_its_own_answer(trips: Trips) -> None:
    asked = [trips.together(("APPEND", key, "x" * number)) for number, key in enumerate(NEAR + FAR)]
    assert await asyncio.gather(*asked) == [[number] for number in range(len(NEAR + FAR))]


async def test_what_goes_behind_them_goes_once_a_trip(trips: Trips, client: Client) -> None:
    before = await calls(client, "wait")
    answers = await asyncio.gather(*(trips.together(("INCR", key), (("WAIT", 0, 1),)) for key in NEAR))
    assert {answer for answer, _ in answers} == {1}
    # The first goes alone, as nothing is under way; the others as many at a time as the bound lets.
    assert await calls(client, "wait") - before == 1 + -(-(len(NEAR) - 1) // COUNT_MAX)


async def test_an_error_is_raised_where_it_was_asked_for(trips: Trips) -> None:
    commands = [("SET", NEAR[0], "v"), ("SET", NEAR[0], "v"), ("INCR", NEAR[0]), ("GET", NEAR[0])]
    done = await at_once([trips.together(parts) for parts in commands])
    assert isinstance(done[2], ResponseError)
    assert (done[3], await trips.together(("GET", NEAR[0]))) == ([b"v"], [b"v"])


@pytest.mark.parametrize("steps", range(8))
async def test_those_whose_callers_have_gone_still_run_and_hold_up_nobody(
    trips: Trips, client: Client, steps: int
) -> None:
    tasks = [asyncio.create_task(trips.together(("INCR", key))) for key in NEAR]
    # The first steps into its trip alone, and the others are asked for.
    for _ in range(1 + steps):
        await asyncio.sleep(0)
    for task in tasks[2:6]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[:2] + done[6:] == [[1]] * (len(NEAR) - 4)
    await trips.aclose()
    assert await asyncio.gather(*(command(client, "GET", key) for key in NEAR)) == [b"1"] * len(NEAR)


async def test_nothing_is_on_its_way_once_it_is_closed(chosen: ValkeySettings, client: Client, add: Script) -> None:
    theirs = connect(chosen)
    acknowledger = Acknowledger(theirs, chosen)
    await acknowledger.run(add, [NEAR[0]], [1])
    tasks = [asyncio.create_task(acknowledger.run(add, [key], [1])) for key in NEAR]
    await asyncio.sleep(0)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await acknowledger.aclose()
    await theirs.aclose()
    assert [await command(client, "GET", key) for key in NEAR[1:]] == [b"1"] * (len(NEAR) - 1)


async def test_all_hear_that_valkey_is_away(
    trips: Trips, chosen: ValkeySettings, request: pytest.FixtureRequest
) -> None:
    if chosen.url.startswith("redis+cluster"):
        request.getfixturevalue("valkey_cluster").stop()
    else:
        request.getfixturevalue("valkey_server").kill()
    async with asyncio.timeout(30):
        done = await at_once([trips.together(("GET", key)) for key in NEAR])
    assert all(isinstance(each, ValkeyConnectionError) for each in done)
    with pytest.raises(ValkeyConnectionError):
        await trips.together(("GET", NEAR[0]))


async def test_scripts_of_a_group_run_where_the_node_has_forgotten_them(
    clustered: Client, cluster: ValkeySettings, add: Script
) -> None:
    acknowledger = Acknowledger(clustered, cluster)
    for expected in (1, 2):
        done = await asyncio.gather(*(acknowledger.run(add, [key], [1]) for key in NEAR + FAR))
        assert done == [(expected, Ack(1))] * len(NEAR + FAR)
        for node in await primaries(clustered):
            await command(node, "SCRIPT", "FLUSH")


async def test_the_node_that_ran_them_answers_what_goes_behind(
    clustered: Client, cluster: ValkeySettings, valkey_cluster: ValkeyCluster
) -> None:
    trips = Trips(clustered, cluster)
    answers = await asyncio.gather(*(trips.together(("INCR", key), (("CLUSTER", "MYID"),)) for key in FAR))
    ids = [valkey_cluster.primary_of(key).command("CLUSTER", "MYID") for key in FAR]
    assert len(set(ids)) > 1
    assert answers == [[1, node_id] for node_id in ids]


@pytest.mark.parametrize("disk", [False, True])
async def test_a_group_without_its_replica_is_refused_as_a_whole(
    clustered: Client, cluster: ValkeySettings, add: Script, valkey_cluster: ValkeyCluster, disk: bool
) -> None:
    strict = Acknowledger(clustered, cluster)
    lenient = Acknowledger(clustered, cluster.model_copy(update={"replica_policy": "degrade"}))
    done = await asyncio.gather(*(strict.run(add, [key], [1], disk=disk) for key in NEAR))
    assert done == [(1, Ack(1, disk))] * len(NEAR)
    replica = valkey_cluster.replica_of(NEAR[0])
    valkey_cluster.freeze(replica)
    refused = await at_once([strict.run(add, [key], [1], disk=disk) for key in NEAR])
    reasons = {each.reason for each in refused if isinstance(each, IsthmusError)}
    assert (len(refused), reasons) == (len(NEAR), {errors_pb2.ERROR_REASON_NOT_REPLICATED})
    degraded = await asyncio.gather(*(lenient.run(add, [key], [1], disk=disk) for key in NEAR))
    assert [(answer, ack.replicas, ack.degraded) for answer, ack in degraded] == [(3, 0, True)] * len(NEAR)
    valkey_cluster.thaw(replica)


async def test_who_asks_for_the_disk_shares_no_trip_with_who_does_not(
    clustered: Client, cluster: ValkeySettings, add: Script
) -> None:
    acknowledger = Acknowledger(clustered, cluster)
    # A node that does not know the script takes a second trip.
    await acknowledger.run(add, [NEAR[-1]], [0])
    before = await calls(clustered, "waitaof")
    done = await asyncio.gather(
        *(acknowledger.run(add, [key], [1], disk=number % 2 == 0) for number, key in enumerate(NEAR))
    )
    assert done == [(1, Ack(1, on_disk=number % 2 == 0)) for number in range(len(NEAR))]
    assert await calls(clustered, "waitaof") - before == 2


async def test_those_of_a_slot_that_moves_are_followed_and_the_others_stay(
    clustered: Client, cluster: ValkeySettings, add: Script, valkey_cluster: ValkeyCluster
) -> None:
    acknowledger = Acknowledger(clustered, cluster)
    source = valkey_cluster.primary_of(NEAR[0])
    target = next(node for node in map(valkey_cluster.primary_of, FAR) if node is not source)
    staying = [key for key in FAR if valkey_cluster.primary_of(key) is source]
    # The moving ones are neither first, which would go alone, nor last.
    keys = [staying[0], *NEAR[:3], *staying[1:], *NEAR[3:], staying[0]]
    slot = source.command("CLUSTER", "KEYSLOT", NEAR[0])
    source_id, target_id = (node.command("CLUSTER", "MYID").decode() for node in (source, target))
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    asked = await asyncio.gather(*(acknowledger.run(add, [key], [1]) for key in keys))
    assert asked == [*((1, Ack(1)) for _ in keys[:-1]), (2, Ack(1))]
    assert source.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    for node in (target, source):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    moved = await asyncio.gather(*(acknowledger.run(add, [key], [1]) for key in NEAR))
    assert moved == [(2, Ack(1))] * len(NEAR)
    assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == len(NEAR)


async def test_a_group_waits_for_the_failover_of_its_node(
    clustered: Client, cluster: ValkeySettings, valkey_cluster: ValkeyCluster
) -> None:
    trips = Trips(clustered, cluster.model_copy(update={"failover_wait_ms_max": 10_000}))
    await asyncio.gather(*(trips.together(("SET", key, key), WAIT) for key in NEAR))
    valkey_cluster.kill(valkey_cluster.primary_of(NEAR[0]))
    answers = await asyncio.gather(*(trips.together(("GET", key)) for key in NEAR))
    assert answers == [[key.encode()] for key in NEAR]


async def test_callers_that_go_leave_no_answer_for_the_next_ones(cluster: ValkeySettings, add: Script) -> None:
    client = connect(cluster.model_copy(update={"connections_count_max": 1}))
    acknowledger = Acknowledger(client, cluster)
    for number in range(60):
        tasks = [asyncio.create_task(acknowledger.run(add, [NEAR[0]], [1])) for _ in range(3)]
        for _ in range(number):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await command(client, "GET", NEAR[1]) is None
    await acknowledger.aclose()
    await client.aclose()
