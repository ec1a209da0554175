"""OpenAI's SDK, unchanged, gets vectors from the replicas: as numbers or bytes, in order, from one that is there."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from redis.asyncio import Redis

from gateway.http.embeddings import TEXT_BYTES_MAX, TEXTS_COUNT_MAX
from gateway.models import embedding
from gateway.models.embedding import _batches
from services.config import Settings
from services.lifecycle import Lifecycle, State
from services.membership import Announcer
from services.router import INFERENCE
from tests.support.mesh import Mesh, running_mesh
from tests.support.ports import free_port

MODEL = "wordllama-l2-supercat-256"
DIMENSIONS = 256
EMBED = "/v1/embeddings"


async def test_texts_become_unit_vectors_in_their_order(sdk: AsyncOpenAI) -> None:
    made = await sdk.embeddings.create(model=MODEL, input=["a river", "a mountain", "a river"])
    vectors = [each.embedding for each in made.data]
    assert [each.index for each in made.data] == [0, 1, 2]
    assert [len(vector) for vector in vectors] == [DIMENSIONS] * 3
    assert math.isclose(math.hypot(*vectors[0]), 1.0, rel_tol=1e-5)
    assert vectors[0] == vectors[2] != vectors[1]
    assert (made.model, made.usage.prompt_tokens) == (MODEL, made.usage.total_tokens)
    one = await sdk.embeddings.create(model=MODEL, input="a river")
    assert one.data[0].embedding == vectors[0]
    assert 0 < one.usage.total_tokens < made.usage.total_tokens


async def test_both_encodings_say_the_same(sdk: AsyncOpenAI) -> None:
    # The SDK asks for base64 by itself, and decodes it.
    asked: Any = {"model": MODEL, "input": "a river", "dimensions": DIMENSIONS}
    bare = await sdk.embeddings.create(**asked)
    numbers = await sdk.embeddings.create(**asked, encoding_format="float")
    encoded: Any = await sdk.embeddings.create(**asked, encoding_format="base64")
    assert bare.data[0].embedding == numbers.data[0].embedding
    assert isinstance(encoded.data[0].embedding, str)


async def test_a_model_that_generates_names_the_one_beside_it(sdk: AsyncOpenAI) -> None:
    for name in ("scripted", ""):
        assert (await sdk.embeddings.create(model=name, input="a river")).model == MODEL
    assert [model.id async for model in sdk.models.list()] == ["scripted", MODEL]


# Body; status, code, parameter; a part of the message.
RUBBISH: list[tuple[dict[str, Any], int, str, str, str]] = [
    ({}, 400, "missing_required_parameter", "input", "is missing"),
    ({"input": []}, 400, "invalid_value", "input", "length >= 1"),
    ({"input": ["a"] * (TEXTS_COUNT_MAX + 1)}, 400, "invalid_value", "input", "length <= 1024"),
    ({"input": ""}, 400, "invalid_field", "input", "is 0 bytes"),
    ({"input": ["a", ""]}, 400, "invalid_field", "input[1]", "is 0 bytes"),
    ({"input": "é" * TEXT_BYTES_MAX}, 400, "invalid_field", "input", "expected 1 to 65536"),
    ({"input": [1, 2]}, 400, "unsupported_parameter", "input", "input[0]: token ids"),
    ({"input": ["a", [1, 2]]}, 400, "unsupported_parameter", "input", "input[1]: token ids"),
    ({"input": 3}, 400, "invalid_type", "input", "got `int`"),
    ({"input": "a", "dimensions": 128}, 400, "invalid_field", "dimensions", "expected 256"),
    ({"input": "a", "model": "nobody-has-this"}, 404, "model_not_found", "model", "nobody-has-this"),
    ({"input": "a", "encoding_format": "int8"}, 400, "invalid_value", "encoding_format", "float or base64"),
    ({"input": "a", "task": "search"}, 400, "unknown_parameter", "task", "unknown parameter"),
]


async def test_what_cannot_be_is_refused_by_its_place(http: httpx.AsyncClient) -> None:
    for body, status, code, param, says in RUBBISH:
        answer = await http.post(EMBED, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
        assert says in error["message"], error


async def test_as_many_texts_as_the_contract_takes_come_in_one_answer(sdk: AsyncOpenAI) -> None:
    texts = [f"text {number}" for number in range(TEXTS_COUNT_MAX)]
    made = await sdk.embeddings.create(model=MODEL, input=texts)
    assert [each.index for each in made.data] == list(range(TEXTS_COUNT_MAX))
    last = await sdk.embeddings.create(model=MODEL, input=texts[-1])
    assert made.data[-1].embedding == last.data[0].embedding


@given(st.lists(st.text(min_size=1, max_size=5).map(lambda text: text * 20_000), max_size=30), st.integers(0, 600))
def test_batches_are_all_texts_within_a_message(long: list[str], short: int) -> None:
    texts = long + ["x"] * short
    batches = list(_batches(texts))
    assert [text for batch in batches for text in batch] == texts
    for batch in batches:
        assert 1 <= len(batch) <= embedding._TEXTS_COUNT_MAX
        assert len(batch) == 1 or sum(len(text.encode()) for text in batch) <= embedding._TEXTS_BYTES_MAX


async def test_a_replica_that_is_away_is_passed_over(settings: Settings, valkey: Redis) -> None:
    inference = settings.inference.model_copy(update={"engine": "scripted"})
    changed = settings.model_copy(update={"inference": inference})
    async with running_mesh(changed, shards=1, gateways=0) as mesh, AsyncExitStack() as closing:
        (real,) = mesh.view.ready(INFERENCE)
        # Nobody is behind it, and everybody believes that somebody is.
        ghost = replace(real, id="inference-9", endpoint=f"127.0.0.1:{free_port()}")
        lifecycle = Lifecycle()
        lifecycle.move(State.READY)
        announcer = Announcer(valkey, changed.membership, ghost, lifecycle)
        await announcer.start()
        closing.push_async_callback(announcer.stop)
        await mesh.settled(INFERENCE, 2)
        gateway = await mesh.add_gateway(0)
        sdk = AsyncOpenAI(base_url=f"http://{gateway.http_address}/v1", api_key="none", max_retries=0)
        await closing.enter_async_context(sdk)
        for number in range(12):
            made = await sdk.embeddings.create(model=MODEL, input=f"text {number}")
            assert len(made.data[0].embedding) == DIMENSIONS


@pytest.mark.parametrize("bounds", [{"upstream_wait_ms_max": 300}])
async def test_without_a_replica_one_is_told_when_to_come_again(mesh: Mesh, http: httpx.AsyncClient) -> None:
    await mesh.remove("inference-0")
    answer = await http.post(EMBED, json={"input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
