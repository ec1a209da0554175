"""Tiers as callers of shards see them: not at all, but for what GetSession says."""

from __future__ import annotations

import pytest
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import session_pb2, turn_pb2

from services.config import Settings
from tests.context_store.client import StoreClient
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually
from tests.support.mesh import changed


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A janitor that looks often, and freezes what was idle for a moment."""
    return changed(settings, "tiering", janitor_interval_ms=20, idle_ms=100)


async def goes_cold(store: StoreClient) -> None:
    async def is_cold() -> bool:
        return (await store.get()).tier == session_pb2.TIER_OBJECT

    await eventually(is_cold)


async def test_a_cold_session_goes_on_where_it_was(store: StoreClient) -> None:
    await store.create()
    turns = [await store.turn(f"r{number}", f"question {number}") for number in range(3)]
    before = await store.get()

    await goes_cold(store)
    cold = await store.get()
    assert (cold.text_bytes, cold.tokens, cold.turn_count) == (before.text_bytes, before.tokens, before.turn_count)
    assert cold.touch_time == before.touch_time
    again = await store.open("question 2", request_id="r2")
    assert again.turn.number == turns[2].number
    opened = await store.open("and now?", request_id="r3", after_turn=turns[2].number)
    _, items = await store.window(opened.manifest)
    assert [item.text for item in items][::2] == ["question 0", "question 1", "question 2", "and now?"]
    await store.commit(opened, "done")


async def test_a_turn_that_nobody_drives_any_more_keeps_no_session_warm(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello", lease_ms=60)
    await goes_cold(store)
    turn = await store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=opened.turn.number))
    assert turn.state == turn_pb2.Turn.STATE_EXPIRED


async def test_a_fork_and_its_parent_leave_and_come_back(store: StoreClient, start_shard: StartShard) -> None:
    await store.create()
    await store.turn("r1", "of both", reply="shared")
    await store.stub.ForkSession(api.ForkSessionRequest(key=store.key, session_id="fork", fork_id=b"12345678"))
    fork = store.about("fork")
    await fork.turn("r2", "of the fork", reply="own")
    await goes_cold(fork)
    await goes_cold(store)
    other = (await start_shard()).about("fork")
    assert [one.text for one in await other.fragments()] == ["of both", "shared", "of the fork", "own"]
    assert (await other.get()).turn_count == 2


async def test_changing_a_cold_session_brings_nothing_back(store: StoreClient) -> None:
    await store.create()
    await store.turn("r1", "hello")
    await goes_cold(store)
    request = api.UpdateSessionRequest(key=store.key, session=session_pb2.Session(display_name="renamed"))
    shown = await store.stub.UpdateSession(request)
    assert (shown.display_name, shown.tier) == ("renamed", session_pb2.TIER_OBJECT)
    assert [one.text for one in await store.fragments()] == ["hello", "ok"]
    assert (await store.get()).display_name == "renamed"
