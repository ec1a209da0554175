"""Sessions that outlive their last write by their ttl are gone: for callers at once, for good soon after."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import session_pb2

from services.config import Settings
from tests.context_store.client import SESSION, TENANT, StoreClient, refusal
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually
from tests.support.mesh import changed

META = f"isthmus:{{{TENANT}/{SESSION}}}:meta"
HOUR = duration_pb2.Duration(seconds=3_600)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A janitor that looks often."""
    return changed(settings, "tiering", janitor_interval_ms=20, idle_ms=0)


async def aged(valkey: Any, by_ms: int) -> None:
    """The session's last write was so much earlier."""
    await valkey.hincrby(META, "touched_ms", -by_ms)


async def due_now(valkey: Any) -> None:
    """Has the janitor look at all sessions in its next round."""
    async for key in valkey.scan_iter("isthmus:due:*"):
        for member in await valkey.zrange(key, 0, -1):
            await valkey.zadd(key, {member: 1})


async def gone(valkey: Any) -> bool:
    """Whether no session has left a key: its own go first, the lists that have its name last."""
    return not [key async for key in valkey.scan_iter("isthmus:*") if b"{members}" not in key]


async def updated(store: StoreClient, ttl: duration_pb2.Duration | None) -> session_pb2.Session:
    request = api.UpdateSessionRequest(key=store.key, update_mask=field_mask_pb2.FieldMask(paths=["ttl"]))
    request.session.SetInParent()
    if ttl:
        request.session.ttl.CopyFrom(ttl)
    return await store.stub.UpdateSession(request)


async def test_an_expired_session_is_not_found_before_the_janitor_comes(store: StoreClient, valkey: Any) -> None:
    await store.create(ttl=HOUR)
    turn = await store.turn("r1", "hello")
    shown = await store.get()
    assert shown.expire_time.ToMilliseconds() == shown.touch_time.ToMilliseconds() + 3_600_000
    await aged(valkey, 3_600_000)
    # It is in no index's reach for an hour: what refuses is the session itself.
    for call in (
        store.get(),
        store.open("more", request_id="r2"),
        store.append("more"),
        store.fragments(),
        store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=turn.number)),
        updated(store, None),
    ):
        code, reason, _, _ = await refusal(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    listed = await store.stub.ListSessions(api.ListSessionsRequest(tenant=TENANT))
    assert not listed.sessions
    # Its name is free.
    await store.create()
    assert (await store.get()).turn_count == 0


async def test_the_janitor_erases_it(store: StoreClient, valkey: Any) -> None:
    await store.create(ttl=HOUR)
    await store.turn("r1", "hello")
    await aged(valkey, 3_600_000)
    await due_now(valkey)
    await eventually(lambda: gone(valkey))


async def test_a_write_and_a_change_of_ttl_keep_it(store: StoreClient, valkey: Any) -> None:
    await store.create(ttl=HOUR)
    await aged(valkey, 3_500_000)
    await store.turn("r1", "hello")
    await aged(valkey, 200_000)
    await due_now(valkey)

    async def looked_at() -> bool:
        places = [await valkey.zrange(key, 0, 0, withscores=True) async for key in valkey.scan_iter("isthmus:due:*")]
        return bool(places) and all(place[0][1] > 1 for place in places)

    await eventually(looked_at)
    assert (await store.get()).turn_count == 1
    assert not (await updated(store, None)).HasField("expire_time")
    await aged(valkey, 10**9)
    assert (await store.get()).turn_count == 1


async def test_one_whose_turn_is_open_does_not_expire(store: StoreClient, valkey: Any) -> None:
    await store.create(ttl=HOUR)
    opened = await store.open("hello")
    await aged(valkey, 10**9)
    await due_now(valkey)
    await store.commit(opened, "reply")
    assert (await store.get()).turn_count == 1


async def test_a_cold_session_expires_with_its_object(settings: Settings, start_shard: StartShard, valkey: Any) -> None:
    store = await start_shard(changed(settings, "tiering", idle_ms=1))
    await store.create(ttl=HOUR)
    await store.turn("r1", "hello")

    async def is_cold() -> bool:
        return (await store.get()).tier == session_pb2.TIER_OBJECT

    await eventually(is_cold)
    folder = settings.mesh.home / "objects"
    assert [path for path in folder.rglob("*") if path.is_file()]
    await aged(valkey, 3_600_000)
    assert (await refusal(store.get()))[1] == "NOT_FOUND"
    await due_now(valkey)
    await eventually(lambda: gone(valkey))
    assert not [path for path in folder.rglob("*") if path.is_file()]
