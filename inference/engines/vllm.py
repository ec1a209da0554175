"""Any model by vLLM: its front runs in this process, the model in one of its own.

Prompts go there as token ids, apart for each tenant by their salt, and in order of priority. The hottest sessions stay
open there (`vllm_sessions.py`), so that one more turn costs what is new in it. vLLM is imported when the engine starts:
what it reads from the environment is set by then, and a replica with another engine pays nothing for it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.vllm_living import Living
from inference.model_files import SMOLLM2
from inference.model_folder import load_model_folder
from inference.models import model_folder
from inference.residents import Bounds, Residents
from services.config import ConfigError

if TYPE_CHECKING:
    from inference.engines.vllm_core import VllmCore

_CORE: Final = "inference.engines.vllm_core"
_SAMPLES: Final = frozenset(
    {
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logprobs",
        "structured_output",
        "tools",
        "min_output_tokens",
    }
)
_NOBODY: Final = Residents(Bounds(0, 0, 0, 0.0, 0, 0))


class VllmEngine:
    """The engine's side: one vLLM after another.

    When its process dies, the requests in it fail with UPSTREAM_UNAVAILABLE, and another one starts at once.
    `context_tokens_max` is known once it has started.
    """

    def __init__(self, context: EngineContext) -> None:
        settings = context.settings
        trained = context.files.vocabulary.context_tokens_max
        self.model = settings.model or context.files.name
        self.context_tokens_max = min(settings.context_tokens_max or trained, trained)
        self.adapters = tuple(context.vllm.adapters)
        self.samples = _SAMPLES
        self._context = context
        self._folder: str | None = None
        # Of those before the one that runs: the number never goes back.
        self._steps = 0
        self._living: Final[Living[VllmCore]] = Living(self._start, self._ended)

    @property
    def core(self) -> VllmCore | None:
        """The vLLM that runs, if one does."""
        return self._living.core

    @property
    def running(self) -> int:
        return self.core.running if self.core is not None else 0

    @property
    def steps(self) -> int:
        return self._steps + (self.core.steps if self.core is not None else 0)

    @property
    def is_loading(self) -> bool:
        return self._living.is_loading

    def kv_use(self) -> float:
        """The share of the KV cache that requests and open sessions take, 0 to 1."""
        return self.core.kv_use if self.core is not None else 0.0

    def residents(self) -> Residents:
        """The open sessions."""
        return self.core.residents if self.core is not None else _NOBODY

    async def start(self) -> None:
        await self._living.start()

    async def stop(self) -> None:
        await self._living.stop()

    async def forget(self, session: str) -> int:
        return await self.core.forget(session) if self.core is not None else 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        core = await self._living.get()
        try:
            async with aclosing(core.reply(request)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self._living.lost(core)

    async def _start(self) -> VllmCore:
        if self._folder is None:
            self._folder = str(await asyncio.to_thread(self._find_folder))
        try:
            # In a thread, since it takes seconds.
            core_class = (await asyncio.to_thread(importlib.import_module, _CORE)).VllmCore
        except ModuleNotFoundError as error:
            raise ConfigError(f"inference.engine: 'vllm' needs a package that is not installed: {error}") from error
        core: VllmCore = await core_class.start(self._context, self._folder, self.model)
        self.context_tokens_max = core.context_tokens_max
        return core

    def _ended(self, core: VllmCore) -> None:
        self._steps += core.steps

    def _find_folder(self) -> object:
        model = self._context.vllm.model
        if model:
            return model_folder(model)
        return load_model_folder(SMOLLM2, self._context.settings.cache_dir)
