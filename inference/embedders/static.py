"""Vectors of texts by a static model: the mean of its token vectors, no network, no layers.

wordllama ships the table and its tokenizer. Its own `embed` pads a batch to its longest text, which takes gigabytes
for one long text among many; here texts are pooled one by one over bounded runs of tokens, with the same result.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.embeddings import Embedded, Vector, unit
from services.config import InferenceSettings

MODEL: Final = "wordllama-l2-supercat-256"


class StaticEmbedder:
    """The table, once it is loaded. `inference.embed_tokens_max` bounds the rows that are looked up at once."""

    def __init__(self, settings: InferenceSettings, executor: Executor) -> None:
        self.model = MODEL
        self.dimensions = 0
        self.tokenizer = b""
        self._executor = executor
        self._tokens_max = settings.embed_tokens_max
        self._encoder: Any = None
        self._table: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    async def start(self) -> None:
        await asyncio.to_thread(self._load)

    async def stop(self) -> None:
        pass

    async def embed(self, texts: Sequence[str]) -> Embedded:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._embed, texts)

    async def count(self, texts: Sequence[str]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._count, texts)

    def _load(self) -> None:
        # The package asks the hub for what lies beside it, unless it is told not to.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import wordllama  # a third of a second, not wanted before it is needed

        model: Any = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
        self._encoder = model.tokenizer
        self._encoder.no_padding()
        self._table = np.asarray(model.embedding, dtype=np.float32)
        self.dimensions = int(self._table.shape[1])
        self.tokenizer = blake2b(self._encoder.to_str().encode(), digest_size=16).digest()

    def _embed(self, texts: Sequence[str]) -> Embedded:
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        tokens = 0
        for row, text in enumerate(texts):
            ids = self._ids(text)
            vectors[row] = self._mean(np.asarray(ids, dtype=np.int64))
            tokens += len(ids)
        return Embedded(vectors, tokens)

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(self._ids(text)) for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def _mean(self, ids: NDArray[np.int64]) -> Vector:
        total = np.zeros(self.dimensions, dtype=np.float64)
        for start in range(0, len(ids), self._tokens_max):
            total += self._table[ids[start : start + self._tokens_max]].sum(axis=0, dtype=np.float64)
        return unit(total)
