"""What a shard holds in memory is bounded, and nothing but speed depends on it."""

from __future__ import annotations

import tracemalloc

import pytest
from isthmus.session.v1 import fragment_pb2, message_pb2, session_pb2, turn_pb2
from redis.asyncio import Redis

from context_store.hot.history import History
from context_store.hot.hot_session import HotSession
from context_store.hot.loading import Loader
from context_store.hot.sessions import Sessions, Slot
from context_store.log.bodies import Bodies
from context_store.log.fragments import Origin, drafts
from context_store.log.keys import Keys
from context_store.log.log import Log
from context_store.window.epoch import Marks
from context_store.window.segments import Segments
from context_store.window.summaries import SummaryRef
from services.config import Settings
from services.errors import NotFound
from services.valkey import Acknowledger
from tests.context_store.client import StoreClient
from tests.context_store.conftest import StartShard

MANY = 30
MESSAGE = fragment_pb2.FRAGMENT_KIND_MESSAGE
USER = message_pb2.ROLE_USER


def log_of(valkey: Redis, settings: Settings) -> Log:
    async def thaw(keys: Keys) -> None:
        raise AssertionError(f"{keys.session} was never cold")

    return Log(valkey, Acknowledger(valkey, settings.valkey), thaw)


def copy_of(fragments: int) -> HotSession:
    """A session of short turns."""
    own = session_pb2.Session(name="sessions/s1", etag="0123456789abcdef")
    hot = HotSession("acme", "s1", bytes(8), bytes(128), own, Marks(0.5, 0.5), History(), Segments(4_096))
    for number in range(1, fragments // 2 + 1):
        first = hot.history.revision + 1
        turn = turn_pb2.Turn(number=number, first_input_sequence=first, last_input_sequence=first)
        hot.opened(turn, drafts(f"q{number}" * 50, Origin(MESSAGE, USER, turn=number), 8_192), None)
        hot.done(turn, drafts(f"a{number}" * 200, Origin(MESSAGE, USER, turn=number), 8_192))
    return hot


@pytest.mark.parametrize("fragments", [10, 1_000, 3_000])
def test_a_session_takes_about_the_memory_that_it_says(fragments: int) -> None:
    copy_of(fragments)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    slots = [Slot(Keys("acme", f"s{number}"), hot=copy_of(fragments)) for number in range(10)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(slot.hot.memory_bytes for slot in slots if slot.hot) == pytest.approx(after - before, rel=0.3)


def test_labels_and_summaries_weigh_too() -> None:
    hot = copy_of(10)
    bare = hot.memory_bytes
    hot.own.labels["k"] = "v" * 10_000
    assert hot.memory_bytes >= bare + 10_000
    hot.summarise(SummaryRef(1, 2, 1, "m", 1, 10, 10, bytes(16)))
    assert hot.memory_bytes >= bare + 10_000 + 400


async def test_a_scan_leaves_the_hot_sessions_in_memory(store: StoreClient, settings: Settings, valkey: Redis) -> None:
    log = log_of(valkey, settings)
    sessions = Sessions(log, Loader(log, settings.store), bytes_max=40_000)
    hot = [Keys("acme", f"hot-{number}") for number in range(4)]
    scanned = [Keys("acme", f"s{number}") for number in range(MANY)]
    for keys in [*hot, *scanned]:
        await store.about(keys.session).create()

    async def use(keys: Keys) -> None:
        async with sessions.hold(keys) as slot:
            await sessions.current(slot)

    for keys in [*hot, *hot]:
        await use(keys)
    for keys in scanned:
        await use(keys)
    loaded = sessions.load_count
    for keys in hot:
        await use(keys)
    assert sessions.load_count == loaded == len(hot) + MANY
    assert sessions.eviction_count > MANY // 2
    assert 0 < sessions.protected_bytes <= sessions.memory_bytes <= 40_000


async def test_sessions_stay_within_their_bytes(store: StoreClient, settings: Settings, valkey: Redis) -> None:
    log = log_of(valkey, settings)
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
    log = log_of(valkey, settings)
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
        await store.commit(opened, f"a{number}")
    following = await store.open("last", request_id="last")
    assert following.manifest.prefix == opened.manifest.end
    assert [item.text for item in following.manifest.new_items] == ["a2", "last"]


async def test_texts_stay_within_their_bytes(settings: Settings, valkey: Redis) -> None:
    bodies = Bodies(log_of(valkey, settings), bytes_max=10_000)
    for number in range(1, 100):
        fragment = fragment_pb2.Fragment(sequence=number, text="x" * 1_000)
        bodies.keep(Keys("acme", "s1"), b"1", [fragment])
        bodies.keep(Keys("acme", "s1"), b"1", [fragment])
        assert bodies.memory_bytes <= 10_000
    assert (await bodies.get(Keys("acme", "s1"), b"1", [99]))[0].text == "x" * 1_000
    bodies.forget(Keys("acme", "s1"), b"1", 99)
    assert await bodies.get(Keys("acme", "s1"), b"1", [98, 99]) != []
    assert await bodies.get(Keys("acme", "s1"), b"1", [1, 99]) == []
