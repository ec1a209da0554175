"""Vectors of texts by any model that vLLM pools, beside whatever engine generates.

Each text is a request of vLLM's, so that it batches those of all callers; a caller's texts share the places with
others'. vLLM is imported when the embedder starts.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inference.embeddings import Embedded, unit
from inference.engines.vllm_args import Load
from inference.engines.vllm_living import Living
from inference.model_files import ModelFilesError
from inference.models import model_folder, model_name
from services.config import ConfigError, Settings
from services.errors import InvalidField

if TYPE_CHECKING:
    from inference.embedders.vllm_pooling import PoolingCore

_CORE: Final = "inference.embedders.vllm_pooling"
# What sentence-transformers' layout says of pooling in.
_MODULES: Final = "modules.json"
# A model that is made to go on with a text, not to be pooled.
_GENERATES: Final = "ForCausalLM"


class VllmEmbedder:
    """One vLLM after another: when its process dies, the texts in it fail, and another one starts at once."""

    def __init__(self, settings: Settings, model: str, executor: Executor) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError("vllm.embedding_model: needs the package vllm, which is not installed")
        self.model = model_name(model)
        self.dimensions = 0
        self.tokenizer = b""
        self._settings = settings
        self._wanted = model
        self._executor = executor
        self._load: Load | None = None
        self._encoder: Any = None
        self._places_count: Final = settings.vllm.embedding_texts_concurrent_max
        self._places: Final = asyncio.Semaphore(self._places_count)
        self._living: Final[Living[PoolingCore]] = Living(self._start)

    @property
    def running(self) -> int:
        """Texts in the engine's batch."""
        return self._living.core.running if self._living.core is not None else 0

    async def start(self) -> None:
        core = await self._living.start()
        self._encoder = await asyncio.to_thread(core.tokenizer)
        self.tokenizer = blake2b(self._encoder.to_str().encode(), digest_size=16).digest()
        (ids,) = await self._ids(["warm"])
        self.dimensions = len(await core.vector(ids))

    async def stop(self) -> None:
        await self._living.stop()

    async def count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in await self._ids(texts)]

    async def embed(self, texts: Sequence[str]) -> Embedded:
        core = await self._living.get()
        encoded = await self._ids(texts)
        for index, ids in enumerate(encoded):
            if len(ids) > core.tokens_max:
                raise InvalidField(f"texts[{index}]", f"it has {len(ids)} tokens; expected at most {core.tokens_max}")
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        rows = iter(range(len(texts)))
        try:
            async with asyncio.TaskGroup() as group:
                # Each waits for one place at a time: a thousand texts do not stand before another caller's one.
                for _ in range(min(len(texts), self._places_count)):
                    group.create_task(self._fill(vectors, encoded, rows, core))
        except ExceptionGroup as failed:
            # The others fail for the same reason, or were cancelled.
            raise failed.exceptions[0] from None
        finally:
            self._living.lost(core)
        return Embedded(vectors, sum(map(len, encoded)))

    async def _fill(
        self, vectors: np.ndarray[Any, Any], encoded: Sequence[list[int]], rows: Iterator[int], core: PoolingCore
    ) -> None:
        for row in rows:
            ids = encoded[row]
            if ids:
                async with self._places:
                    vectors[row] = await core.vector(ids)
            vectors[row] = unit(vectors[row])

    async def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, texts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        # One by one, for the memory of it; in this way the interpreter is released.
        return [self._encoder.encode_batch_fast([text], add_special_tokens=True)[0].ids for text in texts]

    async def _start(self) -> PoolingCore:
        if self._load is None:
            self._load = await asyncio.to_thread(self._find)
        # In a thread, since it takes seconds.
        core_class = (await asyncio.to_thread(importlib.import_module, _CORE)).PoolingCore
        core: PoolingCore = await core_class.start(self._settings.inference, self._settings.vllm, self._load)
        return core

    def _find(self) -> Load:
        try:
            folder = model_folder(self._wanted)
        except ModelFilesError as error:
            raise ConfigError(f"vllm.embedding_model: {error}") from None
        return Load(str(folder), self.model, is_silent=is_silent(folder))


def is_silent(folder: Path) -> bool:
    """Whether a model says nothing of how its tokens' vectors become one."""
    if (folder / _MODULES).is_file():
        return False
    try:
        architectures = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        return all(name.endswith(_GENERATES) for name in architectures)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"vllm.embedding_model: {folder / 'config.json'} has no architectures: {error!r}; expected a model's folder"
            " in Hugging Face's layout"
        ) from None
