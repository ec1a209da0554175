"""The static embedder: pooling over bounded runs of tokens gives the vectors that the package itself gives."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import wordllama

from inference.embedders.static import MODEL
from inference.embeddings import Embedder, create_embedder, unit
from services.config import ConfigError, Settings, load_settings
from tests.inference.replica import running_replica

TEXTS = ["a cat sat on the mat", "日本語のテキスト", "word " * 500, "x", "\n"]


@pytest.fixture
async def embedder() -> AsyncIterator[Embedder]:
    with ThreadPoolExecutor(1) as executor:
        made = create_embedder(load_settings(inference={"embed_tokens_max": 7}), executor)
        await made.start()
        yield made
        await made.stop()


async def test_vectors_are_those_of_the_package_however_long_the_text(embedder: Embedder) -> None:
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    vectors, tokens = await embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dimensions)
    assert np.allclose(vectors, model.embed(TEXTS, norm=True), atol=1e-5)
    assert tokens == sum(len(encoding.ids) for text in TEXTS for encoding in model.tokenize(text))


async def test_counts_are_of_each_text_and_add_up_to_what_embed_reads(embedder: Embedder) -> None:
    counts = await embedder.count(TEXTS)
    assert counts == [(await embedder.embed([text])).tokens for text in TEXTS]
    assert counts[2] > counts[0] > counts[3]
    assert (embedder.model, len(embedder.tokenizer)) == (MODEL, 16)


async def test_a_text_without_tokens_has_a_unit_vector_too(embedder: Embedder) -> None:
    vectors, tokens = await embedder.embed([""])
    assert (float(np.linalg.norm(vectors[0])), tokens) == (1.0, 0)


def test_a_vector_comes_to_unit_length_in_any_size() -> None:
    for scale in (1e-30, 1.0, 1e30):
        assert np.allclose(unit(np.array([3, 4, 0], dtype=np.float32) * scale), [0.6, 0.8, 0.0], atol=1e-6)
    assert unit(np.zeros(3, dtype=np.float32)).tolist() == [1.0, 0.0, 0.0]


async def test_a_model_for_vllm_is_refused_where_vllm_is_not_installed(
    settings: Settings, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    wanted = settings.model_copy(
        update={"vllm": settings.vllm.model_copy(update={"embedding_model": "/models/vectors"})}
    )
    with pytest.raises(ConfigError, match=r"^vllm.embedding_model: needs the package vllm, which is not installed$"):
        async with running_replica(wanted, cache_dir):
            pass


async def test_a_model_that_generates_has_another_name_than_the_one_that_embeds(
    settings: Settings, cache_dir: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^inference.model: '{MODEL}' is the name of"):
        async with running_replica(settings, cache_dir, model=MODEL):
            pass
