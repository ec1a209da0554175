"""Vectors of texts by a static model: the mean of its token vectors, no network, no layers.

wordllama ships the table and its tokenizer. Its own `embed` pads a batch to its longest text, which takes gigabytes
for one long text among many; here texts are pooled one by one over bounded runs of tokens, with the same result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MODEL: Final = "wordllama-l2-supercat-256"


class Embedder:
    """A loaded table; safe to use from any thread. `tokens_max` bounds the rows that are looked up at once."""

    def __init__(self, tokens_max: int) -> None:
        # The package asks the hub for what lies beside it, unless it is told not to.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import wordllama  # a third of a second, not wanted before it is needed

        model: Any = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
        self._tokenizer = model.tokenizer
        self._tokenizer.no_padding()
        self._table: NDArray[np.float32] = np.asarray(model.embedding, dtype=np.float32)
        self._tokens_max = tokens_max
        self.dimensions: Final = int(self._table.shape[1])

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """The unit vector of each text, float32 [texts, dimensions], and the tokens they had together."""
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        tokens = 0
        for row, text in enumerate(texts):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            vectors[row] = self._unit(np.asarray(ids, dtype=np.int64))
            tokens += len(ids)
        return vectors, tokens

    def _unit(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        total = np.zeros(self.dimensions, dtype=np.float64)
        for start in range(0, len(ids), self._tokens_max):
            total += self._table[ids[start : start + self._tokens_max]].sum(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(total))
        if length == 0.0:
            # Nothing but tokens without a direction: any unit vector is as good, and the first axis is the same always.
            total[0] = length = 1.0
        return (total / length).astype(np.float32)
