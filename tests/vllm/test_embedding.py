"""Vectors by a model that vLLM pools, in a replica whose own engine is another: over real gRPC, from start to stop."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from inference.embedders.vllm import VllmEmbedder
from services.config import load_settings
from tests.inference.replica import Replica, error_of, running_replica
from tests.support.eventually import eventually
from tests.support.valkey_server import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT_TOKENS = 1_024
PLACES = 4
TEXTS = ["A cat sat on the mat.", "The cat lay on a rug.", "int main(void) { return 0; }", "Interest rates rose again."]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(
    model_folder: Path, valkey_process: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Replica]:
    named = tmp_path_factory.mktemp("models") / "pooled"
    named.symlink_to(model_folder)
    settings = load_settings(
        mesh={"home": named.parent / "home"},
        valkey={"url": valkey_process.url},
        vllm={
            "embedding_model": str(named),
            "embedding_args": {"max_model_len": CONTEXT_TOKENS, "kv_cache_memory_bytes": 1 << 28},
            "embedding_texts_concurrent_max": PLACES,
        },
    )
    async with running_replica(settings, settings.inference.cache_dir) as started:
        yield started
    assert multiprocessing.active_children() == [], "the model's process ends with the room"


def embedder(replica: Replica) -> VllmEmbedder:
    assert isinstance(replica.room.embedder, VllmEmbedder)
    return replica.room.embedder


async def embed(replica: Replica, *texts: str) -> NDArray[np.float32]:
    answer = await replica.stub.Embed(contract.EmbedRequest(texts=texts))
    return np.frombuffer(answer.vectors, dtype="<f4").reshape(len(texts), answer.dimensions)


async def test_it_is_served_by_its_folders_name_beside_the_engine(replica: Replica) -> None:
    model = await replica.stub.GetModel(contract.GetModelRequest())
    assert (model.engine, model.embedding_model, model.embedding_dimensions) == ("scripted", "pooled", 576)
    answer = await replica.stub.Embed(contract.EmbedRequest(texts=TEXTS[:1], model="pooled"))
    assert (answer.model, answer.dimensions, len(answer.vectors)) == ("pooled", 576, 4 * 576)
    error = await error_of(replica.stub.Embed(contract.EmbedRequest(texts=["x"], model=model.name)))
    assert error.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
    assert "'pooled'" in error.message
    metered = {sample.labels.get("model_name") for family in REGISTRY.collect() for sample in family.samples}
    assert "pooled" not in metered, "vLLM's metrics are the generating engine's"


async def test_vectors_are_unit_and_alike_for_like_texts(replica: Replica) -> None:
    vectors = await embed(replica, *TEXTS, TEXTS[0])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(vectors[0], vectors[-1], atol=1e-3)
    near, *far = vectors[1:4] @ vectors[0]
    assert near > max(far) + 0.05


async def test_texts_have_the_vectors_that_they_have_alone(replica: Replica) -> None:
    texts = [TEXTS[0], "word " * 300, "x"]
    together = await embed(replica, *texts)
    alone = np.concatenate([await embed(replica, text) for text in texts])
    assert np.allclose((together * alone).sum(axis=1), 1, atol=1e-2)


async def test_counts_are_what_embed_reads(replica: Replica) -> None:
    texts = ["<|im_start|>", "日本語 " * 50]
    items = [window_pb2.WindowItem(text=text) for text in texts]
    counted = await replica.stub.CountTokens(contract.CountTokensRequest(items=items, model="pooled"))
    answers = [await replica.stub.Embed(contract.EmbedRequest(texts=each)) for each in (texts[:1], texts)]
    assert [answer.tokens for answer in answers] == [counted.tokens[0], sum(counted.tokens)]
    assert counted.tokens[1] > counted.tokens[0] > 1, "no text has a control token"


async def test_a_text_longer_than_the_context_is_refused_by_its_field(replica: Replica) -> None:
    longest = "word" * CONTEXT_TOKENS
    assert (await replica.stub.Embed(contract.EmbedRequest(texts=[longest]))).tokens == CONTEXT_TOKENS
    error = await error_of(replica.stub.Embed(contract.EmbedRequest(texts=["fits", longest + "word"])))
    assert [each.field for each in error.fields] == ["texts[1]"]
    assert f"it has {CONTEXT_TOKENS + 1} tokens; expected at most {CONTEXT_TOKENS}" in error.message


def open_call(replica: Replica) -> Any:
    """More work than there are places."""
    return replica.stub.Embed(contract.EmbedRequest(texts=[f"{index} " + "word " * 900 for index in range(24)]))


async def test_a_caller_that_goes_frees_its_places(replica: Replica) -> None:
    call = open_call(replica)
    await eventually(lambda: embedder(replica).running)
    assert embedder(replica).running <= PLACES
    call.cancel()
    await eventually(lambda: not embedder(replica).running)
    assert (await embed(replica, "The next one.")).shape == (1, 576)


async def test_a_dead_process_fails_its_texts_and_is_replaced(replica: Replica) -> None:
    (child,) = multiprocessing.active_children()
    call = open_call(replica)
    await eventually(lambda: embedder(replica).running)
    child.kill()
    error = await error_of(call)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.retry_after_ms
    assert (await embed(replica, "The next one.")).shape == (1, 576)
    assert len(multiprocessing.active_children()) == 1
