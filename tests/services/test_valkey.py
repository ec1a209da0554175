"""The connection to one Valkey: scripts, and what a restart or a stall does to a command."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.exceptions
from redis.asyncio import Redis

from services.config import Settings
from services.valkey import Script, connect
from tests.support.eventually import WAIT_S_MAX
from tests.support.valkey_server import ValkeyServer

pytestmark = pytest.mark.foreign_keys("*")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    path = tmp_path / "add.lua"
    path.write_text("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    return Script(path)


async def test_a_script_runs_whether_or_not_valkey_has_it(valkey: Redis, script: Script) -> None:
    assert await script(valkey, ["n"], [2]) == 2
    assert await script(valkey, ["n"], [3]) == 5
    await valkey.script_flush()
    assert await script(valkey, ["n"], [4]) == 9


async def test_an_error_within_a_script_is_raised_once(valkey: Redis, script: Script) -> None:
    await valkey.set("n", "text")
    with pytest.raises(redis.exceptions.ResponseError, match="not an integer"):
        await script(valkey, ["n"], [1])


async def test_answers_are_bytes(valkey: Redis) -> None:
    await valkey.set("k", "ü")
    assert await valkey.get("k") == "ü".encode()


async def test_connections_that_a_restart_broke_are_replaced(valkey: Redis, valkey_server: ValkeyServer) -> None:
    await asyncio.gather(*(valkey.ping() for _ in range(8)))
    valkey_server.kill()
    valkey_server.start()
    assert await asyncio.gather(*(valkey.ping() for _ in range(8))) == [True] * 8


async def test_a_valkey_that_stays_away_is_an_error_in_bounded_time(
    settings: Settings, valkey_server: ValkeyServer
) -> None:
    client = connect(settings.valkey)
    valkey_server.kill()
    with pytest.raises(redis.exceptions.ConnectionError):
        await asyncio.wait_for(client.ping(), 30)
    await client.aclose()


async def test_a_command_that_stalls_times_out(settings: Settings) -> None:
    client = connect(settings.valkey.model_copy(update={"command_ms_max": 100}))
    with pytest.raises(redis.exceptions.TimeoutError):
        await client.blpop(["nothing"], timeout=60)
    await client.aclose()


async def test_a_cancellation_is_never_lost(valkey: Redis) -> None:
    """At whatever step of a command it comes: redis-py's own sending loses it at some of them."""

    async def forever() -> None:
        while True:
            await valkey.ping()

    for steps in range(200):
        task = asyncio.create_task(forever())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=WAIT_S_MAX)
        assert done, f"a cancellation after {steps} steps was lost"
        assert task.cancelled()
