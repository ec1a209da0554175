"""What an embedder is: texts in, unit vectors out.

A variant lives in `inference/embedders` and is imported only when the settings ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from services.config import Settings

Vector = NDArray[np.float32]


class Embedded(NamedTuple):
    """The unit vector of each text, float32 [texts, dimensions], and the tokens they had together."""

    vectors: NDArray[np.float32]
    tokens: int


class Embedder(Protocol):
    """A model that makes vectors. `dimensions` and `tokenizer` are known once it has started.

    `tokenizer` is the BLAKE2b-128 of the tokenizer that it reads texts by.
    """

    model: str
    dimensions: int
    tokenizer: bytes

    async def start(self) -> None:
        """Loads the model; returns when the first text would come at full speed. Raises ConfigError."""

    async def stop(self) -> None:
        """Frees everything. Requests that still run fail."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """The texts' vectors; cancelled, all that is left of it ends.

        Raises INVALID_FIELD by the text that is too long for the model, ENGINE_FAILED where the model failed on this
        request, and UPSTREAM_UNAVAILABLE where it went away.
        """

    async def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens that `embed` would read of each text, those included that the model has around it."""


def create_embedder(settings: Settings, executor: Executor) -> Embedder:
    """The embedder that the settings name; it reads texts in `executor`. Raises ConfigError for one without vLLM."""
    if settings.vllm.embedding_model is not None:
        from inference.embedders.vllm import VllmEmbedder

        return VllmEmbedder(settings, settings.vllm.embedding_model, executor)
    from inference.embedders.static import StaticEmbedder

    return StaticEmbedder(settings.inference, executor)


def unit(vector: NDArray[np.floating]) -> Vector:
    """The vector at unit length; the first axis for one without a direction."""
    wide = vector.astype(np.float64)
    length = float(np.linalg.norm(wide))
    if length == 0.0:
        # Any unit vector is as good, and this one is the same always.
        wide[0] = length = 1.0
    return (wide / length).astype(np.float32)
