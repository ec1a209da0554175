"""Valkey is killed with SIGKILL between and during calls and started again: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import pytest_asyncio
import redis
import zstandard
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import document_pb2, fragment_pb2

from context_store.log.log import Log
from services.config import Settings
from tests.context_store.client import StoreClient, lease_of, refusal, user
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually
from tests.support.valkey_server import ValkeyServer

T = TypeVar("T")
KILLS = 6
SESSIONS = 3


@pytest_asyncio.fixture
async def durable(tmp_path: Path) -> AsyncIterator[ValkeyServer]:
    server = ValkeyServer(tmp_path, append_only=True)
    start(server)
    yield server
    server.kill()


def start(server: ValkeyServer) -> None:
    """Every answer comes after its write: with `everysec` one that meets a running fsync would not."""
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "no")


def on(server: ValkeyServer, settings: Settings) -> Settings:
    return settings.model_copy(update={"valkey": settings.valkey.model_copy(update={"url": server.url})})


async def restart(server: ValkeyServer) -> None:
    server.kill()
    await asyncio.to_thread(start, server)


async def insistently(call: Callable[[], Awaitable[T]]) -> T:
    """Calls until it is served, as a gateway does: UNAVAILABLE always says that waiting helps."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
                raise


def read_log(server: ValkeyServer, session: str) -> list[tuple[int, fragment_pb2.Fragment, str]]:
    """The log as it lies in Valkey, read without the store."""
    with redis.Redis.from_url(server.url) as client:
        entries: Any = client.xrange(f"isthmus:{{acme/{session}}}:log")
    found = []
    for name, fields in entries:
        text = zstandard.ZstdDecompressor().decompress(fields[b"b"]).decode()
        found.append((int(name.split(b"-")[0]), fragment_pb2.Fragment.FromString(fields[b"f"]), text))
    return found


async def turns(store: StoreClient, name: str, acknowledged: list[tuple[str, str]], stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        question, answer = f"{name} asks {number}", f"{name} hears {number} "
        request = store.open_request(question, request_id=f"r{number}", driver=f"d{number}", lease_ms=60_000)
        opened = await insistently(partial(store.stub.OpenTurn, request))
        assert (opened.outcome, opened.turn.number) == (api.OpenTurnResponse.OUTCOME_OPENED, number + 1)
        commit = store.commit_request(opened, answer)
        done = await insistently(partial(store.stub.CommitTurn, commit))
        assert done.turn.output_text == answer
        acknowledged.append((question, answer))
        number += 1


async def ingest(store: StoreClient, data: bytes) -> None:
    async def once() -> document_pb2.Document:
        offset = 0
        try:
            known = await store.stub.GetDocument(api.GetDocumentRequest(key=store.key, document="book"))
            offset = known.committed_bytes
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        return await store.write("book", data, chunk=300_000, offset=offset)

    done = await insistently(once)
    assert done.committed_bytes == len(data)


def _all_beyond(acknowledged: list[list[tuple[str, str]]], counts: list[int]) -> bool:
    return all(len(one) > count for one, count in zip(acknowledged, counts, strict=True))


async def kill_repeatedly(server: ValkeyServer, rng: random.Random, acknowledged: list[list[tuple[str, str]]]) -> None:
    for _ in range(KILLS):
        before = [len(one) for one in acknowledged]
        # The next kill comes when every session has got on, at an arbitrary point of a call.
        await eventually(partial(_all_beyond, acknowledged, before), timeout_s=30)
        for _ in range(rng.randrange(200)):
            await asyncio.sleep(0)
        await restart(server)


@pytest.mark.timeout(180)
async def test_no_acknowledged_turn_is_lost_or_doubled(
    durable: ValkeyServer, settings: Settings, start_shard: StartShard
) -> None:
    shards = [await start_shard(on(durable, settings)) for _ in range(2)]
    stores = [shards[number % 2].about(f"s{number}") for number in range(SESSIONS)]
    reader = shards[1].about("s0")
    for store in stores:
        await store.create()
    acknowledged: list[list[tuple[str, str]]] = [[] for _ in stores]
    stop = asyncio.Event()
    data = b"The book goes on and on, line by line.\n" * 100_000
    async with asyncio.TaskGroup() as group:
        for number, store in enumerate(stores):
            group.create_task(turns(store, f"s{number}", acknowledged[number], stop))
        group.create_task(ingest(reader, data))
        await kill_repeatedly(durable, random.Random(7), acknowledged)
        stop.set()
    for number, said in enumerate(acknowledged):
        log = read_log(durable, f"s{number}")
        assert [sequence for sequence, _, _ in log] == list(range(1, len(log) + 1))
        talk = [text for _, header, text in log if not header.document]
        assert talk == [text for pair in said for text in pair]
    book = [text for _, header, text in read_log(durable, "s0") if header.document]
    assert "".join(book).encode() == data


async def test_a_dead_valkey_is_unavailable_with_a_time_to_retry(
    durable: ValkeyServer, settings: Settings, start_shard: StartShard
) -> None:
    store = await start_shard(on(durable, settings))
    await store.create()
    opened = await store.open("hello")
    durable.kill()
    code, reason, _, retry_ms = await refusal(store.commit(opened, "hi"))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert retry_ms
    await asyncio.to_thread(start, durable)
    assert (await insistently(lambda: store.commit(opened, "hi"))).turn.output_text == "hi"
    assert [text for _, _, text in read_log(durable, "s1")] == ["hello", "hi"]


@pytest.mark.parametrize("script", ["open_turn", "commit_turn", "append_messages", "append_document", "close_turn"])
async def test_a_script_whose_answer_was_lost_takes_effect_once(
    durable: ValkeyServer, settings: Settings, start_shard: StartShard, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await start_shard(on(durable, settings))
    await store.create()
    lost: list[str] = []
    run = Log._warm

    async def run_and_lose(self: Log, name: str, *args: Any, **options: Any) -> Any:
        answer = await run(self, name, *args, **options)
        if name == script and not lost:
            lost.append(name)
            raise redis.exceptions.ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(Log, "_warm", run_and_lose)
    opened = await insistently(lambda: store.open("hello", lease_ms=60_000))
    if script == "close_turn":
        lease = lease_of(opened)
        await insistently(lambda: store.stub.FailTurn(api.FailTurnRequest(key=store.key, lease=lease)))
        opened = await store.open("hello")
    await insistently(lambda: store.commit(opened, "hi"))
    append = api.AppendMessagesRequest(key=store.key, messages=[user("aside")], request_id="a1")
    await insistently(lambda: store.stub.AppendMessages(append))
    await ingest(store, b"text")
    assert lost == [script]
    assert [one.text for one in await store.fragments()] == ["hello", "hi", "aside", "text"]
    assert (await store.get()).revision == (5 if script == "close_turn" else 4)
    following = await store.open("more", request_id="r2")
    assert [item.text for item in following.manifest.new_items] == ["hi", "aside", "text", "more"]
