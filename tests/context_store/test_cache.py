"""What a shard holds in memory is bounded, and nothing but speed depends on it."""

from __future__ import annotations

import pytest
from isthmus.session.v1 import fragment_pb2
from redis.asyncio import Redis

from context_store.bodies import Bodies
from context_store.keys import Keys
from context_store.loading import Loader
from context_store.log import Log
from context_store.sessions import Sessions
from services.config import Settings
from services.errors import NotFound
from tests.context_store.client import StoreClient
from tests.context_store.conftest import StartShard

MANY = 30


async def test_sessions_stay_within_their_bytes(store: StoreClient, settings: Settings, valkey: Redis) -> None:
    log = Log(valkey)
    sessions = Sessions(log, Loader(log, settings.store), bytes_max=20_000)
    for number in range(MANY):
        one = store.about(f"s{number}")
        await one.create()
        await one.append(*["words"] * 20)
        async with sessions.hold(Keys("acme", f"s{number}")) as slot:
            assert (await sessions.current(slot)).history.revision == 20
        assert sessions.memory_bytes <= 20_000
    assert 1 <= len(sessions) < 6
    async with sessions.hold(Keys("acme", "s0")) as slot:
        assert slot.hot is None
        await sessions.current(slot)


async def test_what_is_held_is_not_evicted_and_what_is_unknown_leaves_no_trace(
    store: StoreClient, settings: Settings, valkey: Redis
) -> None:
    await store.create()
    log = Log(valkey)
    sessions = Sessions(log, Loader(log, settings.store), bytes_max=1)
    async with sessions.hold(Keys("acme", "s1")) as slot:
        hot = await sessions.current(slot)
        with pytest.raises(NotFound):
            async with sessions.hold(Keys("acme", "none")) as unknown:
                await sessions.current(unknown)
        assert slot.hot is hot
        assert len(sessions) == 1
    assert (len(sessions), sessions.memory_bytes) == (0, 0)


async def test_a_shard_without_a_cache_serves_the_same(start_shard: StartShard, settings: Settings) -> None:
    poor = settings.store.model_copy(update={"hot_sessions_bytes_max": 1, "bodies_bytes_max": 0})
    store = await start_shard(settings.model_copy(update={"store": poor}))
    await store.create()
    for number in range(3):
        opened = await store.open(f"q{number}", request_id=f"r{number}")
        await store.commit(opened.turn, f"a{number}")
    following = await store.open("last", request_id="last")
    assert following.manifest.prefix == opened.manifest.end
    assert [item.text for item in following.manifest.new_items] == ["a2", "last"]


async def test_texts_stay_within_their_bytes(valkey: Redis) -> None:
    bodies = Bodies(Log(valkey), bytes_max=10_000)
    for number in range(1, 100):
        fragment = fragment_pb2.Fragment(sequence=number, text="x" * 1_000)
        bodies.keep(Keys("acme", "s1"), b"1", [fragment])
        bodies.keep(Keys("acme", "s1"), b"1", [fragment])
        assert bodies.memory_bytes <= 10_000
    assert (await bodies.get(Keys("acme", "s1"), b"1", [99]))[0].text == "x" * 1_000
    bodies.forget(Keys("acme", "s1"), b"1", 99)
    assert await bodies.get(Keys("acme", "s1"), b"1", [98, 99]) != []
    assert await bodies.get(Keys("acme", "s1"), b"1", [1, 99]) == []
