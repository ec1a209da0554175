"""What a client of Valkey promises, on one node and on a cluster alike."""

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
from services.valkey import Ack, Acknowledger, Client, Script, command, connect, memory, primaries, scan_keys
from tests.support.eventually import eventually

pytestmark = pytest.mark.foreign_keys("*")

KEYS = [f"{{session-{number}}}:n" for number in range(40)]
FULL = "OOM command not allowed when used memory > 'maxmemory'."


@pytest.fixture(params=["settings", "cluster_settings"], ids=["node", "cluster"])
def chosen(request: pytest.FixtureRequest) -> ValkeySettings:
    settings: Settings = request.getfixturevalue(request.param)
    return settings.valkey


@pytest_asyncio.fixture
async def client(chosen: ValkeySettings) -> AsyncIterator[Client]:
    connected = connect(chosen)
    yield connected
    await connected.aclose()


@pytest.fixture
def add(tmp_path: Path) -> Script:
    return script(tmp_path, "return redis.call('INCRBY', KEYS[1], ARGV[1])")


def script(folder: Path, text: str) -> Script:
    path = folder / "script.lua"
    path.write_text(text)
    return Script(path)


async def forget_scripts(client: Client) -> None:
    for node in await primaries(client):
        await command(node, "SCRIPT", "FLUSH")


async def test_a_script_runs_at_its_keys_whether_or_not_they_have_it(client: Client, add: Script) -> None:
    acknowledger = Acknowledger(client, ValkeySettings())
    for key in KEYS:
        assert await add(client, [key], [2]) == 2
    await forget_scripts(client)
    for key in KEYS:
        answer, _ = await acknowledger.run(add, [key], [3])
        assert answer == 5
        assert await command(client, "GET", key) == b"5"
    await forget_scripts(client)
    answer, ack = await acknowledger.run(add, [KEYS[0]], [1], disk=False)
    assert (answer, ack.degraded) == (6, False)


async def test_an_error_within_a_script_is_raised_as_it_is(client: Client, add: Script) -> None:
    await command(client, "SET", KEYS[0], "text")
    with pytest.raises(redis.exceptions.ResponseError, match="not an integer"):
        await add(client, [KEYS[0]], [1])
    with pytest.raises(redis.exceptions.ResponseError, match="not an integer"):
        await Acknowledger(client, ValkeySettings()).run(add, [KEYS[0]], [1])


async def test_a_full_valkey_is_overload(client: Client, tmp_path: Path) -> None:
    refused = script(tmp_path, f'return redis.error_reply("{FULL}")')
    with pytest.raises(IsthmusError, match="Valkey is full") as raised:
        await Acknowledger(client, ValkeySettings()).run(refused, [KEYS[0]])
    assert raised.value.reason == errors_pb2.ERROR_REASON_OVERLOADED


async def test_a_pipeline_answers_in_order_wherever_its_keys_are(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    for number, key in enumerate(KEYS):
        pipeline.hset(key, mapping={"number": str(number)})
        pipeline.hgetall(key)
    answers = await pipeline.execute()
    assert answers[1::2] == [{b"number": b"%d" % number} for number in range(len(KEYS))]
    failing = client.pipeline(transaction=False)
    failing.hlen(KEYS[0])
    failing.get(KEYS[1])
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await failing.execute()


async def test_every_primary_tells_its_memory_and_its_keys(client: Client) -> None:
    for key in KEYS:
        await command(client, "SET", key, b"x")
    assert {key.decode() async for key in scan_keys(client, "{session-*", count=5)} == set(KEYS)
    nodes = await memory(client)
    assert len(nodes) == len(await primaries(client)) == len({node.name for node in nodes})
    assert all(node.used_bytes > 0 == node.max_bytes for node in nodes)


async def test_beyond_its_connections_a_command_waits_and_is_then_refused(chosen: ValkeySettings) -> None:
    client = connect(chosen.model_copy(update={"connections_count_max": 1, "pool_wait_ms_max": 100}))
    await command(client, "GET", KEYS[0])
    blocked = asyncio.create_task(command(client, "BLPOP", KEYS[0], 60))
    watcher = connect(chosen)

    async def is_blocked() -> bool:
        infos = [await command(node, "INFO", "clients") for node in await primaries(watcher)]
        return sum(int(info["blocked_clients"]) for info in infos) == 1

    await eventually(is_blocked)
    with pytest.raises(redis.exceptions.ConnectionError, match="No connection available"):
        await command(client, "GET", KEYS[0])
    await command(watcher, "RPUSH", KEYS[0], b"x")
    assert (await blocked)[1] == b"x"
    await watcher.aclose()
    await client.aclose()


async def test_a_cancelled_command_leaves_no_answer_for_the_next_one(chosen: ValkeySettings, add: Script) -> None:
    client = connect(chosen.model_copy(update={"connections_count_max": 1}))
    acknowledger = Acknowledger(client, chosen.model_copy(update={"replicas_ack_count": 0}))
    names = [f"{KEYS[0]}:{number}" for number in range(2)]
    for name in names:
        await command(client, "SET", name, name)
    for steps in range(60):
        task = asyncio.create_task(acknowledger.run(add, [KEYS[0]], [1], disk=chosen.url.startswith("redis+")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await command(client, "GET", names[steps % 2]) == names[steps % 2].encode()
    await client.aclose()


@pytest.mark.parametrize(("user", "refused"), [("reader:right", False), ("reader:wrong", True)])
async def test_a_user_with_a_password(chosen: ValkeySettings, client: Client, user: str, refused: bool) -> None:
    for node in await primaries(client):
        await command(node, "ACL", "SETUSER", "reader", "on", ">right", "~*", "+@all")
    scheme, _, places = chosen.url.partition("://")
    theirs = connect(chosen.model_copy(update={"url": f"{scheme}://{user}@{places}"}))
    try:
        if refused:
            with pytest.raises(redis.exceptions.RedisError) as raised:
                await command(theirs, "GET", KEYS[0])
            assert "right" not in str(raised.value)
        else:
            assert await command(theirs, "GET", KEYS[0]) is None
            (node, *_) = await primaries(theirs)
            assert await command(node, "ACL", "WHOAMI") == b"reader"
    finally:
        await theirs.aclose()
        for node in await primaries(client):
            await command(node, "ACL", "DELUSER", "reader")


async def test_who_asks_for_nobody_is_not_kept_waiting(client: Client, chosen: ValkeySettings, add: Script) -> None:
    acknowledger = Acknowledger(client, chosen.model_copy(update={"replicas_ack_count": 0}))
    assert await acknowledger.run(add, [KEYS[0]], [1]) == (1, Ack())
