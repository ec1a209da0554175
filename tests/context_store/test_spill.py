"""Large replies lie in objects: they read as any other, and go with what they belong to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import fragment_pb2, session_pb2

from context_store.log.log import Log
from context_store.tiering.objects import Bucket
from services.config import Settings
from services.errors import UpstreamUnavailable
from tests.context_store.client import SESSION, TENANT, StoreClient
from tests.context_store.conftest import StartShard
from tests.context_store.test_expiry import due_now
from tests.support.eventually import eventually
from tests.support.mesh import changed

LOG = f"isthmus:{{{TENANT}/{SESSION}}}:log"
REPLY = "".join(Random(7).choices("abcdefghijklmnopqrstuvwxyz ", k=300_000))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A janitor that looks often, and freezes nothing by itself."""
    return changed(settings, "tiering", janitor_interval_ms=20, idle_ms=0)


def objects(settings: Settings) -> list[Path]:
    return [path for path in (settings.mesh.home / "objects").rglob("*") if path.is_file()]


async def replies(store: StoreClient) -> list[fragment_pb2.Fragment]:
    return [one for one in await store.fragments() if one.kind == fragment_pb2.FRAGMENT_KIND_REPLY]


async def reply_of(store: StoreClient, turn: int) -> str:
    return (await store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=turn))).output_text


async def test_a_large_reply_reads_as_any_other(
    store: StoreClient, start_shard: StartShard, settings: Settings, valkey: Any
) -> None:
    await store.create()
    turn = await store.turn("r1", "tell me everything", reply=REPLY)
    assert len(objects(settings)) == 1
    assert await valkey.memory_usage(LOG) < 50_000
    # Another shard has none of it in memory.
    other = await start_shard()
    for shard in (store, other):
        assert await reply_of(shard, turn.number) == REPLY
        assert "".join(one.text for one in await replies(shard)) == REPLY
    opened = await other.open("again", request_id="r2")
    _, items = await other.window(opened.manifest)
    assert REPLY in "".join(item.text for item in items)
    await other.commit(opened, "short")
    assert len(objects(settings)) == 1
    await store.stub.DeleteSession(api.DeleteSessionRequest(key=store.key))
    # As a gateway tells all shards.
    await other.stub.ForgetSession(api.ForgetSessionRequest(key=store.key))
    assert objects(settings) == []


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_no_turn_waits_for_a_bucket_that_is_away(
    start_shard: StartShard, settings: Settings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def away(*_: object) -> None:
        if how == "hangs":
            await asyncio.Event().wait()
        raise UpstreamUnavailable("the object store does not answer")

    store = await start_shard(changed(settings, "tiering", spill_ms_max=50))
    await store.create()
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", away)
        turn = await store.turn("r1", "tell me everything", reply=REPLY)
    assert objects(settings) == []
    assert await reply_of(store, turn.number) == REPLY
    assert await reply_of(await start_shard(), turn.number) == REPLY
    # The bucket is back: the next reply goes there.
    await store.turn("r2", "and again", reply=REPLY)
    assert len(objects(settings)) == 1


async def test_it_stays_readable_when_its_session_leaves_valkey(settings: Settings, start_shard: StartShard) -> None:
    store = await start_shard(changed(settings, "tiering", idle_ms=1))
    await store.create()
    turn = await store.turn("r1", "tell me everything", reply=REPLY)

    async def is_cold() -> bool:
        return (await store.get()).tier == session_pb2.TIER_OBJECT

    await eventually(is_cold)
    assert await reply_of(store, turn.number) == REPLY


async def test_what_is_erased_leaves_the_object_too(store: StoreClient, settings: Settings) -> None:
    await store.create()
    await store.turn("r1", "tell me everything", reply=REPLY)
    parts = await replies(store)
    gone = parts[3]
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=gone.sequence))
    (path,) = objects(settings)
    frame = zstandard.ZstdCompressor(level=3).compress(gone.text.encode())
    assert frame not in path.read_bytes()
    assert [one.text for one in await replies(store)] == [one.text for one in parts if one.sequence != gone.sequence]
    for part in parts:
        await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=part.sequence))
    assert objects(settings) == []


async def test_one_that_was_never_committed_is_cleaned_up(
    store: StoreClient, settings: Settings, valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard dies between the object and the log: the next attempt has an object of its own."""
    await store.create()
    opened = await store.open("tell me everything")

    async def lost(*_: object, **__: object) -> None:
        raise RuntimeError("the shard dies here")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "commit_turn", lost)
        with pytest.raises(Exception, match=r"INTERNAL|UNKNOWN|internal"):
            await store.commit(opened, REPLY)
    assert len(objects(settings)) == 1
    await store.commit(opened, REPLY)
    assert len(objects(settings)) == 2
    await due_now(valkey)
    await eventually(lambda: len(objects(settings)) == 1)
    assert await reply_of(store, opened.turn.number) == REPLY
