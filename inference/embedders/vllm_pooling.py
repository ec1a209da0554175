"""One vLLM that makes vectors: its front in this process, the model in a process of its own. Gone when that dies."""

from __future__ import annotations

import itertools
from contextlib import aclosing
from typing import Any, Final

import numpy as np
import structlog
import tokenizers
from vllm import PoolingParams, TokensPrompt
from vllm.exceptions import VLLMClientError

from inference.embeddings import Vector
from inference.engine import engine_failed
from inference.engines.vllm_args import EMBEDDING, Load
from inference.engines.vllm_loading import Loaded, end, load
from services.config import ConfigError, InferenceSettings, VllmSettings
from services.errors import InvalidField, IsthmusError, UpstreamUnavailable

_TASK: Final = "embed"

_log = structlog.get_logger("vllm")


class PoolingCore:
    """Made by `start`. `tokens_max` bounds a text."""

    def __init__(self, loaded: Loaded, stop_ms_max: int) -> None:
        self._llm = loaded.llm
        self._stop_s_max = stop_ms_max / 1000
        self._numbers = itertools.count(1)
        self._running: set[str] = set()
        self.tokens_max: int = loaded.llm.model_config.max_model_len

    @classmethod
    async def start(cls, settings: InferenceSettings, vllm: VllmSettings, model: Load) -> PoolingCore:
        """Loads the model. Raises ConfigError, also for one that makes no vectors of texts, or ENGINE_FAILED."""
        core = cls(await load(settings, vllm, model, EMBEDDING), vllm.stop_ms_max)
        try:
            tasks = await core._llm.get_supported_tasks()
            if _TASK not in tasks:
                raise ConfigError(
                    f"vllm.embedding_model: {model.folder} is for {', '.join(tasks)}; expected a model that embeds, or"
                    " vllm.embedding_args.convert = 'embed'"
                )
        except BaseException:
            await core.stop()
            raise
        return core

    @property
    def alive(self) -> bool:
        """Whether it takes texts."""
        return not self._llm.errored

    @property
    def running(self) -> int:
        """Texts that it works on."""
        return len(self._running)

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer, to be used from any thread. Raises ConfigError for one that is not a fast one."""
        fast = getattr(self._llm.get_tokenizer(), "backend_tokenizer", None)
        if not isinstance(fast, tokenizers.Tokenizer):
            raise ConfigError("vllm.embedding_model: has no fast tokenizer; expected one with tokenizer.json")
        # vLLM's own may be changed by whoever else has it.
        own = tokenizers.Tokenizer.from_str(fast.to_str())
        own.no_padding()
        own.no_truncation()
        # No text, whatever it says, has a control token: the model's own stand around it.
        own.encode_special_tokens = True
        return own

    async def vector(self, ids: list[int]) -> Vector:
        """The vector of one text; its length is the model's to say. Cancelled, the text is out of the batch."""
        number = str(next(self._numbers))
        self._running.add(number)
        try:
            return await self._vector(ids, number)
        except Exception as error:
            raise self._explained(error) from error
        finally:
            self._running.discard(number)

    async def stop(self) -> None:
        """Ends all requests, then the process; kills it if that takes too long."""
        try:
            await self._llm.abort(tuple(self._running))
        except Exception:  # noqa: BLE001 - a process that has died has no requests
            _log.debug("the engine was gone already", exc_info=True)
        await end(self._llm, self._stop_s_max)

    async def _vector(self, ids: list[int], number: str) -> Vector:
        data: Any = None
        prompt, params = TokensPrompt(prompt_token_ids=ids), PoolingParams(task=_TASK)
        async with aclosing(self._llm.encode(prompt, params, number)) as outputs:
            async for output in outputs:
                data = output.outputs.data
        if data is None or not len(data):
            raise UpstreamUnavailable("the engine was stopped in the middle of this")
        vector: Vector = data.float().numpy()
        if not np.isfinite(vector).all():
            raise engine_failed("the engine made a vector that is no number")
        return vector

    def _explained(self, error: Exception) -> IsthmusError:
        if isinstance(error, IsthmusError):
            return error
        if isinstance(error, VLLMClientError):
            return InvalidField("texts", " ".join(str(error).split()))
        if not self.alive:
            # Nothing is wrong with the text: the next process, or another replica, will take it.
            return UpstreamUnavailable("the engine's process ended in the middle of this")
        return engine_failed(f"the engine failed on this text: {error.__cause__ or error!r}")
