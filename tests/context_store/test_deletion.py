"""Deleting a session: nothing of it is left anywhere, whatever breaks on the way."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import redis
import zstandard
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub

from context_store.log.keys import Keys
from context_store.room import ContextStoreRoom
from context_store.session.deletion import RESUME_MS, CancelJobs, Deletions
from context_store.tiering.indexes import DUE
from services import jobs
from services.config import Settings
from services.errors import IsthmusError
from services.lifecycle import RoomContext
from tests.context_store.client import StoreClient, refusal
from tests.context_store.tier_parts import Crash, Steps

SECRET = "the bird flies at midnight"
# Names long enough not to come up by chance among random bytes.
ERASED = "a-session-to-erase"
FORK = "a-fork-of-it"
KEYS = Keys("acme", ERASED)


@pytest_asyncio.fixture
async def room(settings: Settings) -> AsyncIterator[ContextStoreRoom]:
    """A shard of which the tests know the inside."""
    room = ContextStoreRoom(RoomContext(settings, "store-1", "127.0.0.1:0"))
    await room.start()
    yield room
    await room.stop()


@pytest_asyncio.fixture
async def store(room: ContextStoreRoom) -> AsyncIterator[StoreClient]:
    async with grpc.aio.insecure_channel(room.address) as channel:
        yield StoreClient(ContextServiceStub(channel), ERASED)


async def fill(store: StoreClient) -> None:
    """Something of every kind that a session has."""
    await store.create(display_name=SECRET)
    await store.turn("r1", f"{SECRET} said", reply=f"{SECRET} answered")
    await store.write("book", f"{SECRET}. ".encode() * 2_000)
    await store.stub.CommitSummary(await store.summarise(1, 2, SECRET))
    opened = await store.open("again", request_id="r2")
    await store.stub.CancelTurn(api.CancelTurnRequest(key=store.key, turn=opened.turn.number))


def traces(settings: Settings, *needles: str) -> list[str]:
    """Every place in Valkey and the bucket that has one of the needles, packed or not."""
    client = redis.Redis.from_url(settings.valkey.url)
    found = []
    for key in client.scan_iter():
        whole = key + b"\n" + b"\n".join(_unpacked(_contents(client, key)))
        found += [f"{needle!r} in {key!r}" for needle in needles if needle.encode() in whole]
    client.close()
    for path in _files(settings.mesh.home / "objects"):
        whole = str(path).encode() + b"\n".join(_unpacked([path.read_bytes()]))
        found += [f"{needle!r} in {path}" for needle in needles if needle.encode() in whole]
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _contents(client: Any, key: bytes) -> Iterator[bytes]:
    match client.type(key):
        case b"hash":
            for field, value in client.hgetall(key).items():
                yield from (field, value)
        case b"set":
            yield from client.smembers(key)
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case b"stream":
            for _, fields in client.xrange(key):
                yield from (part for pair in fields.items() for part in pair)
        case b"list":
            yield from client.lrange(key, 0, -1)
        case _:
            yield client.get(key)


def _unpacked(values: Any) -> Iterator[bytes]:
    for value in values:
        yield value
        if value.startswith(zstandard.MAGIC_NUMBER.to_bytes(4, "little")):
            yield zstandard.ZstdDecompressor().decompressobj().decompress(value)


async def test_nothing_of_a_deleted_session_is_left(store: StoreClient, settings: Settings) -> None:
    await fill(store)
    assert traces(settings, ERASED, SECRET)
    receipt = await store.delete()
    assert traces(settings, ERASED, SECRET) == []
    kinds = {(one.place, one.kind): (one.count, one.bytes) for one in receipt.erasures}
    assert kinds["valkey", "log"][0] > 4
    assert kinds["valkey", "log"][1] > 1_000
    assert {kind for place, kind in kinds if place == "valkey"} >= {
        "meta", "log", "turns", "requests", "void", "summaries", "documents", "index"
    }  # fmt: skip
    assert ("store-1", "hot_copy") in kinds
    assert (receipt.name, list(receipt.forks)) == (f"sessions/{ERASED}", [])
    assert (await refusal(store.delete()))[1] == "NOT_FOUND"
    assert (await refusal(store.get()))[1] == "NOT_FOUND"


async def test_a_cold_session_goes_with_its_object(
    room: ContextStoreRoom, store: StoreClient, settings: Settings
) -> None:
    await fill(store)
    fork = await store.fork(FORK)
    await _freeze(room, KEYS)
    assert traces(settings, SECRET)
    receipt = await store.delete()
    assert traces(settings, ERASED, "said") == []
    assert receipt.erasures
    assert await fork.texts() == []


async def test_a_cold_fork_leaves_its_ancestors(room: ContextStoreRoom, store: StoreClient, settings: Settings) -> None:
    await fill(store)
    fork = await store.fork(FORK)
    leaf = await fork.fork("s3")
    before = await leaf.texts()
    await _freeze(room, Keys("acme", FORK))
    await fork.delete()
    assert traces(settings, FORK) == []
    assert await leaf.texts() == before


@pytest.mark.parametrize("after", [False, True])
async def test_a_deletion_that_breaks_off_anywhere_is_completed(
    room: ContextStoreRoom, store: StoreClient, settings: Settings, after: bool
) -> None:
    crash_at, is_over = 0, False
    while not is_over:
        crash_at += 1
        await fill(store)
        fork = await store.fork(FORK)
        await fork.turn("mine", "my own", reply="part")
        steps = Steps(crash_at, after=after)
        try:
            await brittle(room, steps).delete(KEYS)
            is_over = True
        except Crash:
            pass
        if crash_at % 2:
            await _deleted_again(store)
        await _visited_by_the_janitor(room)
        # Where it broke off before it had begun, the session is as it was.
        await _deleted_again(store)
        assert traces(settings, ERASED) == []
        assert await fork.texts() == ["my own", "part"]
        await fork.delete()
        assert traces(settings, SECRET) == []
    assert crash_at > 8


async def _visited_by_the_janitor(room: ContextStoreRoom) -> None:
    """What the janitor does about a session that is due."""
    assert room.store
    assert await Deletions(room.store, cancel(room)).resume(KEYS) == 0
    indexes = room.store.tiers.indexes
    for bucket in range(indexes.buckets):
        for place in await indexes.oldest(DUE, bucket, -RESUME_MS, 0, 10):
            if place.member == KEYS.member:
                await indexes.remove(place)


async def _deleted_again(store: StoreClient) -> None:
    try:
        await store.delete()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


async def test_a_session_of_the_same_name_waits_for_nobody(
    room: ContextStoreRoom, store: StoreClient, settings: Settings
) -> None:
    await fill(store)
    steps = Steps()
    with pytest.raises(Crash), _at_hide(steps):
        await brittle(room, steps).delete(KEYS)
    assert (await refusal(store.get()))[1] == "NOT_FOUND"
    made = await store.create()
    assert made.revision == 0
    assert await store.texts() == []
    assert traces(settings, SECRET) == []


async def test_a_late_deletion_takes_nothing_of_the_next_session(room: ContextStoreRoom, store: StoreClient) -> None:
    await fill(store)
    assert room.store
    incarnation = (await room.store.log.presence(KEYS))[0]
    await store.delete()
    await fill(store)
    fork = await store.fork(FORK)
    before = await store.texts(), await fork.texts()
    await _freeze(room, KEYS)
    # Two shards deleted the session that was there before, and one of them was slow.
    await Deletions(room.store, cancel(room))._erase(KEYS, incarnation, (), b"")
    assert (await store.texts(), await fork.texts()) == before
    # That it is in every list still is what the fixture looks for.


async def test_a_turn_of_the_session_before_cannot_expire(room: ContextStoreRoom, store: StoreClient) -> None:
    await fill(store)
    assert room.store
    before = await room.store.log.turns(KEYS, [0, 1, 2])
    await room.store.expire_turn(KEYS, 9)
    assert await room.store.log.turns(KEYS, [0, 1, 2]) == before
    assert (await store.open(f"{SECRET} said", request_id="r1")).turn.number == 1


async def test_only_the_present_etag_deletes(store: StoreClient) -> None:
    made = await store.create()
    wrong = store.stub.DeleteSession(api.DeleteSessionRequest(key=store.key, etag="old"))
    assert (await refusal(wrong))[1] == "ETAG_MISMATCH"
    assert (await store.stub.DeleteSession(api.DeleteSessionRequest(key=store.key, etag=made.etag))).erasures


async def test_a_session_that_was_written_since_does_not_expire(room: ContextStoreRoom, store: StoreClient) -> None:
    await store.create()
    assert room.store
    deletions = Deletions(room.store, cancel(room))
    assert not await deletions.expire(KEYS, 1)
    touched_ms = (await store.get()).touch_time.ToMilliseconds()
    assert await deletions.expire(KEYS, touched_ms)
    with pytest.raises(IsthmusError):
        await room.store.read(KEYS)


async def test_a_shard_forgets_what_another_one_deleted(store: StoreClient, room: ContextStoreRoom) -> None:
    await fill(store)
    answer = await store.stub.ForgetSession(api.ForgetSessionRequest(key=store.key))
    assert {one.kind for one in answer.erasures} == {"hot_copy", "texts"}
    assert not (await store.stub.ForgetSession(api.ForgetSessionRequest(key=store.key))).erasures


def cancel(room: ContextStoreRoom) -> CancelJobs:
    """What the room itself takes jobs back by."""
    return partial(jobs.cancel_segments, room._queue)


async def _freeze(room: ContextStoreRoom, keys: Keys) -> None:
    assert room.store
    reply = await room.store.tiers.freezer(room.store.read).freeze(keys, 0)
    assert reply.outcome == "FROZEN"


class Brittle:
    """A part of the shard each call of which is a step; streams of pages are none."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(method):
            return method
        return lambda *args, **options: self._steps.step(lambda: method(*args, **options))


def brittle(room: ContextStoreRoom, steps: Steps) -> Deletions:
    """Deletions that crash at a step."""
    assert room.store
    tiers = copy.copy(room.store.tiers)
    tiers.indexes = Brittle(tiers.indexes, steps)  # type: ignore[assignment]
    tiers.objects = Brittle(tiers.objects, steps)
    log: Any = Brittle(room.store.log, steps)
    return Deletions(replace(room.store, tiers=tiers, log=log), cancel(room))


@contextmanager
def _at_hide(steps: Steps) -> Iterator[None]:
    """Crashes right after the session was hidden."""
    steps._crash_at, steps._after = 5, True
    yield
