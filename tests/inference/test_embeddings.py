"""Pooling over bounded runs of tokens gives the vectors that the package itself gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import wordllama

from inference.embeddings import Embedder

TEXTS = ["a cat sat on the mat", "日本語のテキスト", "word " * 500, "x", "\n"]


def test_vectors_are_those_of_the_package_however_long_the_text() -> None:
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    vectors, tokens = Embedder(tokens_max=7).embed(TEXTS)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, model.embed(TEXTS, norm=True), atol=1e-5)
    assert tokens == sum(len(encoding.ids) for text in TEXTS for encoding in model.tokenize(text))


def test_a_text_without_tokens_has_a_unit_vector_too() -> None:
    vectors, tokens = Embedder(tokens_max=7).embed([""])
    assert (float(np.linalg.norm(vectors[0])), tokens) == (1.0, 0)
