"""Segments of a session get their summaries: real store, replica and queue around the room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest_asyncio
from isthmus.context.v1 import context_service_pb2 as store_api
from isthmus.context.v1 import summary_pb2, window_pb2
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.inference.v1 import inference_service_pb2 as inference_api
from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from isthmus.session.v1 import fragment_pb2
from redis.asyncio import Redis

from compressor.extract import METHOD, VERSION
from compressor.room import CompressorRoom
from context_store.log.keys import Keys
from services import jobs
from services.config import Settings
from services.router import STORE
from tests.compressor.summaries import assert_each_once, read_summaries, segment_count, wait_for_summaries
from tests.compressor.texts import story
from tests.context_store.client import SESSION, TENANT, StoreClient
from tests.support.eventually import eventually
from tests.support.mesh import COMPRESSOR, Mesh, changed, running_mesh

# A quarter of the default, so that a short text has several segments.
SEGMENT_TOKENS = 1_024
TOKENS_MAX = 96


@pytest_asyncio.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    """A shard and a replica, and quick retries for the compressors to come."""
    settings = changed(settings, "store", segment_tokens=SEGMENT_TOKENS, fragment_bytes_max=512)
    settings = changed(settings, "inference", engine="scripted")
    settings = changed(settings, "compressor", summary_tokens_max=TOKENS_MAX, job_retry_ms_min=20, job_retry_ms_max=100)
    async with running_mesh(settings, shards=1, replicas=1, gateways=0) as mesh:
        yield mesh


@pytest_asyncio.fixture
async def store(mesh: Mesh) -> AsyncIterator[StoreClient]:
    """A caller of the shard, with a session."""
    async with grpc.aio.insecure_channel(mesh.view.ready(STORE)[0].endpoint) as channel:
        client = StoreClient(ContextServiceStub(channel))
        await client.create()
        yield client


async def add_compressor(mesh: Mesh, number: int = 0) -> None:
    await mesh.add(CompressorRoom, f"{COMPRESSOR}-{number}")


async def write(mesh: Mesh, store: StoreClient, sentence_count: int) -> int:
    """Streams a story into the session; returns how many segments it has."""
    text = story(sentence_count)
    await store.write("novel", text.encode())
    return segment_count(text, mesh.settings.store)


async def summaries_of(valkey: Redis, count: int) -> list[summary_pb2.Summary]:
    await wait_for_summaries(valkey, TENANT, SESSION, count)
    return await read_summaries(valkey, TENANT, SESSION)


async def idle(valkey: Redis, settings: Settings) -> None:
    """Waits until the queue is empty: neither a job waits nor runs."""
    async with jobs.docket(settings) as queue:

        async def empty() -> bool:
            return not await valkey.xlen(queue.stream_key) and not await valkey.zcard(queue.queue_key)

        await eventually(empty, message="an empty queue")


async def announced(valkey: Redis, settings: Settings) -> None:
    """Waits until a job is in the queue."""
    async with jobs.docket(settings) as queue:
        await eventually(lambda: valkey.xlen(queue.stream_key), message="a job")


async def test_a_document_gets_its_summaries(mesh: Mesh, store: StoreClient, valkey: Redis) -> None:
    await add_compressor(mesh)
    count = await write(mesh, store, 400)

    summaries = await summaries_of(valkey, count)

    assert_each_once(summaries, count)
    fragments = {fragment.sequence: fragment.text for fragment in await read_all(store)}
    for summary in summaries:
        assert (summary.level, summary.method, summary.version) == (1, METHOD, VERSION)
        sequences = [sentence.sequence for sentence in summary.sentences]
        assert sequences == sorted(sequences)
        assert all(sentence.text in fragments[sentence.sequence] for sentence in summary.sentences)
        assert TOKENS_MAX / 2 < summary.tokens <= TOKENS_MAX
    await assert_counts_are_the_replicas(mesh, summaries)


async def assert_counts_are_the_replicas(mesh: Mesh, summaries: list[summary_pb2.Summary]) -> None:
    """The replica itself, asked for a summary's text and for an empty one: the difference is what was committed."""
    async with grpc.aio.insecure_channel(mesh.view.ready("inference")[0].endpoint) as channel:
        stub = InferenceServiceStub(channel)
        model = await stub.GetModel(inference_api.GetModelRequest())
        for summary in summaries:
            lines = "\n".join(sentence.text for sentence in summary.sentences)
            items = [window_pb2.WindowItem(kind=window_pb2.WINDOW_ITEM_KIND_MESSAGE, text=text) for text in ("", lines)]
            frame, whole = (await stub.CountTokens(inference_api.CountTokensRequest(items=items))).tokens
            assert summary.tokens == whole - frame
            assert summary.tokenizer == model.tokenizer


async def read_all(store: StoreClient) -> list[fragment_pb2.Fragment]:
    request = store_api.ReadFragmentsRequest(key=store.key, first_sequence=1, last_sequence=1 << 20)
    return [fragment async for response in store.stub.ReadFragments(request) for fragment in response.fragments]


async def test_a_job_that_is_delivered_again_changes_nothing(mesh: Mesh, store: StoreClient, valkey: Redis) -> None:
    await add_compressor(mesh)
    before = await summaries_of(valkey, await write(mesh, store, 200))
    await idle(valkey, mesh.settings)

    async with jobs.docket(mesh.settings) as queue:
        await jobs.enqueue_segment(queue, TENANT, SESSION, before[0].first_sequence, before[0].last_sequence)
    await idle(valkey, mesh.settings)

    assert await read_summaries(valkey, TENANT, SESSION) == before


async def test_two_compressors_share_the_work_and_each_summary_comes_once(
    mesh: Mesh, store: StoreClient, valkey: Redis
) -> None:
    count = await write(mesh, store, 800)
    await add_compressor(mesh, 0)
    await add_compressor(mesh, 1)

    assert_each_once(await summaries_of(valkey, count), count)


async def test_a_session_that_is_gone_ends_its_jobs_quietly(mesh: Mesh, store: StoreClient, valkey: Redis) -> None:
    await write(mesh, store, 200)
    await store.stub.DeleteSession(store_api.DeleteSessionRequest(key=store.key))

    await add_compressor(mesh)

    await idle(valkey, mesh.settings)
    assert not await valkey.exists(Keys(TENANT, SESSION).summaries)


async def test_without_a_replica_a_summary_is_committed_uncounted(
    mesh: Mesh, store: StoreClient, valkey: Redis
) -> None:
    await mesh.remove("inference-0")
    await mesh.add(CompressorRoom, f"{COMPRESSOR}-0", changed(mesh.settings, "compressor", **LITTLE_PATIENCE))
    count = await write(mesh, store, 200)

    summaries = await summaries_of(valkey, count)

    assert_each_once(summaries, count)
    assert [(summary.tokens, summary.tokenizer) for summary in summaries] == [(0, b"")] * len(summaries)
    assert all(len("".join(s.text for s in summary.sentences)) / 3 <= TOKENS_MAX for summary in summaries)


LITTLE_PATIENCE = {"job_counted_attempts_count_max": 2, "job_retry_ms_min": 20, "job_retry_ms_max": 100}


async def test_work_waits_for_a_store_that_is_away(mesh: Mesh, store: StoreClient, valkey: Redis) -> None:
    count = await write(mesh, store, 200)
    await announced(valkey, mesh.settings)
    await mesh.remove(f"{STORE}-0")
    await add_compressor(mesh)

    async def retried() -> bool:
        async with jobs.docket(mesh.settings) as queue:
            return await valkey.zcard(queue.queue_key) > 0

    await eventually(retried, message="a job that waits for its next attempt")
    await mesh.add_shard(0)

    assert_each_once(await summaries_of(valkey, count), count)


async def test_draining_finishes_what_runs_and_takes_no_more(mesh: Mesh, store: StoreClient, valkey: Redis) -> None:
    count = await write(mesh, store, 800)
    await add_compressor(mesh)
    await summaries_of(valkey, 1)

    await mesh.remove(f"{COMPRESSOR}-0", drain=True)

    left = await read_summaries(valkey, TENANT, SESSION)
    await add_compressor(mesh, 1)
    all_of_them = await summaries_of(valkey, count)
    assert_each_once(all_of_them, count)
    assert {summary.first_sequence for summary in left} <= {summary.first_sequence for summary in all_of_them}
