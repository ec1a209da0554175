"""Documents of libraries get their vectors: real store, replica and queue around the room, and SIGKILLs in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import pytest
import pytest_asyncio
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.inference.v1 import inference_service_pb2
from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from isthmus.session.v1 import document_pb2
from redis.asyncio import Redis

from compressor.room import CompressorRoom
from context_store.log.keys import Keys
from services import jobs
from services.config import Settings
from services.router import INFERENCE, STORE
from tests.compressor.texts import story
from tests.context_store.client import TENANT, StoreClient
from tests.context_store.test_document_resources import write
from tests.support.eventually import eventually
from tests.support.mesh import COMPRESSOR, Mesh, changed, running_mesh

LIBRARY = "library.l1"


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Batches so small that a short text has many, and quick retries."""
    settings = changed(settings, "store", fragment_bytes_max=512)
    settings = changed(settings, "inference", engine="scripted")
    own = {"job_retry_ms_min": 20, "job_retry_ms_max": 100, "job_redelivery_ms": 1_000, "job_attempts_count_max": 1_000}
    return changed(settings, "compressor", **own, embed_texts_count_max=2, embed_read_count_max=8)


@pytest_asyncio.fixture
async def mesh(small: Settings) -> AsyncIterator[Mesh]:
    async with running_mesh(small, shards=1, replicas=1, gateways=0) as mesh:
        yield mesh


@asynccontextmanager
async def library(mesh: Mesh) -> AsyncIterator[StoreClient]:
    async with grpc.aio.insecure_channel(mesh.view.ready(STORE)[0].endpoint) as channel:
        yield StoreClient(ContextServiceStub(channel), LIBRARY)


async def document(store: StoreClient, name: str) -> document_pb2.Document:
    return await store.stub.GetDocument(api.GetDocumentRequest(key=store.key, document=name))


async def is_embedded(store: StoreClient, name: str) -> bool:
    found = await document(store, name)
    return bool(found.embedder) and found.embedded_count == found.passage_count


async def query_vector(mesh: Mesh, text: str) -> inference_service_pb2.EmbedResponse:
    async with grpc.aio.insecure_channel(mesh.view.ready(INFERENCE)[0].endpoint) as channel:
        answer: inference_service_pb2.EmbedResponse = await InferenceServiceStub(channel).Embed(
            inference_service_pb2.EmbedRequest(texts=[text])
        )
        return answer


async def batches(valkey: Redis, name: str) -> dict[int, int]:
    """How many vectors of a document are stored from which passage on."""
    stored = cast("dict[bytes, bytes]", await valkey.hgetall(Keys(TENANT, LIBRARY).vectors))
    return {
        int(field.rpartition(b":")[2]): len(value) // 512
        for field, value in stored.items()
        if field.startswith(f"{name}:".encode())
    }


async def test_a_librarys_documents_get_vectors_and_others_do_not(mesh: Mesh, valkey: Redis) -> None:
    async with library(mesh) as store:
        await store.create()
        await store.about("s1").create()
        await write(store.about("s1"), "novel", story(20).encode())
        await write(store, "novel", story(100).encode(), passage_tokens_max=100)
        await write(store, "cats", b"Cats purr when they are stroked. A kitten sleeps all day.")
        await write(store, "empty", b"")
        await mesh.add(CompressorRoom, f"{COMPRESSOR}-0")
        for name in ("novel", "cats", "empty"):
            await eventually(partial(is_embedded, store, name), 30, f"vectors of {name}")
        novel = await document(store, "novel")
        assert novel.passage_count > 20
        assert sum((await batches(valkey, "novel")).values()) == novel.passage_count
        answer = await query_vector(mesh, "feline animals")
        found = await store.stub.SearchDocuments(
            api.SearchDocumentsRequest(
                key=store.key, query="feline animals", vector=answer.vectors, embedder=answer.model
            )
        )
        assert (found.passages[0].document, found.words_only) == ("cats", False)
        assert not (await document(store.about("s1"), "novel")).embedder
        async with jobs.docket(mesh.settings) as queue:
            await eventually(lambda: no_jobs(valkey, queue.stream_key), message="an empty queue")


async def no_jobs(valkey: Redis, stream: str) -> bool:
    return not await valkey.xlen(stream)


@contextmanager
def process(settings: Settings, folder: Path, room: str, member: str) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "settings.json"
    config.write_text(settings.model_dump_json())
    argv = [sys.executable, "-m", room, "--member", member, "--listen", "127.0.0.1:0"]
    running = subprocess.Popen(argv, env={**os.environ, "ISTHMUS_CONFIG": str(config)})
    try:
        yield running
    finally:
        running.kill()
        running.wait()


async def begun(valkey: Redis) -> bool:
    return len(await batches(valkey, "novel")) >= 2


async def assert_each_once(store: StoreClient, valkey: Redis) -> None:
    """Every passage has a vector, in batches that follow one another."""
    following = 0
    for first, count in sorted((await batches(valkey, "novel")).items()):
        assert first == following
        following += count
    assert following == (await document(store, "novel")).passage_count


async def test_a_killed_compressors_document_is_gone_on_with(mesh: Mesh, valkey: Redis, tmp_path: Path) -> None:
    async with library(mesh) as store:
        await store.create()
        await write(store, "novel", story(600).encode(), passage_tokens_max=100)
        with process(mesh.settings, tmp_path, "compressor", "compressor-0"):
            await eventually(lambda: begun(valkey), 90, "the first vectors")
        assert not await is_embedded(store, "novel"), "the text is too short for this test"
        await mesh.add(CompressorRoom, f"{COMPRESSOR}-1")
        await eventually(lambda: is_embedded(store, "novel"), 90, "the last vectors")
        await assert_each_once(store, valkey)


async def test_a_killed_shard_holds_no_document_up(small: Settings, valkey: Redis, tmp_path: Path) -> None:
    async with running_mesh(small, shards=0, replicas=1, gateways=0, compressors=1) as mesh:
        with process(small, tmp_path, "context_store", "context_store-8"):
            await eventually(lambda: mesh.view.ready(STORE), 90, "a shard")
            async with library(mesh) as store:
                await store.create()
                await write(store, "novel", story(600).encode(), passage_tokens_max=100)
                await eventually(lambda: begun(valkey), 90, "the first vectors")
        await mesh.add_shard(9)
        await eventually(lambda: [one.id for one in mesh.view.ready(STORE)] == ["context_store-9"], 30, "one shard")
        async with library(mesh) as store:
            assert not await is_embedded(store, "novel"), "the text is too short for this test"
            await eventually(lambda: is_embedded(store, "novel"), 90, "the last vectors")
            await assert_each_once(store, valkey)
