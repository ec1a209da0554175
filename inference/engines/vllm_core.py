"""One vLLM: its front in this process, the model in a process of its own. Gone for good when that dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from vllm.lora.request import LoRARequest

from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.vllm_args import GENERATING, Load
from inference.engines.vllm_errors import request_error, unfinished
from inference.engines.vllm_loading import Loaded, end, load, lora_rank_max
from inference.engines.vllm_sampling import Outputs, sampling_params
from inference.engines.vllm_sessions import Sessions, Work
from inference.residents import Bounds, Residents
from services.config import ConfigError, VllmSettings
from services.errors import InvalidField

_log = structlog.get_logger("vllm")


class VllmCore:
    """Made by `start`."""

    def __init__(self, loaded: Loaded, context: EngineContext, adapters: Mapping[str, Any]) -> None:
        config = loaded.llm.vllm_config
        self._llm = loaded.llm
        self._meter = loaded.meter
        self._tokenizer = context.tokenizer
        self._end_ids = frozenset(context.files.vocabulary.end_ids)
        self._stop_s_max = context.vllm.stop_ms_max / 1000
        self._adapters = adapters
        self._defaults: Mapping[str, Any] = config.model_config.get_diff_sampling_param()
        self._forms: str = config.structured_outputs_config.backend
        self._by_priority = config.scheduler_config.policy == "priority"
        self._sessions = Sessions(loaded.llm, _bounds(config, context.vllm))
        self._numbers = itertools.count(1)
        self.context_tokens_max: int = config.model_config.max_model_len

    @classmethod
    async def start(cls, context: EngineContext, folder: str, name: str) -> VllmCore:
        """Loads the model in the folder, and the adapters. Raises ConfigError, or ENGINE_FAILED."""
        rank_max = await asyncio.to_thread(lora_rank_max, context.vllm)
        model = Load(folder, name, rank_max)
        loaded = await load(context.settings, context.vllm, model, GENERATING)
        adapters = {
            adapter: LoRARequest(lora_name=adapter, lora_int_id=number, lora_path=str(path))
            for number, (adapter, path) in enumerate(context.vllm.adapters.items(), 1)
        }
        core = cls(loaded, context, adapters)
        try:
            for adapter, request in adapters.items():
                await core._add(adapter, request)
        except BaseException:
            await core.stop()
            raise
        return core

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return not self._llm.errored

    @property
    def running(self) -> int:
        """Requests that somebody waits for."""
        return self._sessions.running

    @property
    def steps(self) -> int:
        """Steps that the model has made, those included that brought no output."""
        return self._meter.steps

    @property
    def kv_use(self) -> float:
        """The share of the KV cache that requests and open sessions take, 0 to 1."""
        return self._meter.kv_use

    @property
    def residents(self) -> Residents:
        """The open sessions."""
        return self._sessions.residents

    async def reply(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """What the engine's `generate` answers."""
        outputs = Outputs(self._tokenizer, self._end_ids, request.sampling.logprobs)
        try:
            async with aclosing(self._sessions.run(self._work(request))) as answers:
                async for answer in answers:
                    reason = answer.completion.finish_reason
                    output = outputs.output(answer.completion, answer.cached_tokens, resident=answer.resident)
                    if reason and not output.finish_reason:
                        raise unfinished(reason)
                    if output.token_ids or output.finish_reason:
                        yield output
        except Exception as error:
            raise request_error(error, request.sampling, alive=self.alive) from error

    async def forget(self, session: str) -> int:
        """Closes an open session; the tokens that it held."""
        return await self._sessions.forget(session)

    async def stop(self) -> None:
        """Ends all requests, then the process; kills it if that takes too long."""
        try:
            await self._sessions.stop()
        except Exception:  # noqa: BLE001 - a process that has died has no requests
            _log.debug("the engine was gone already", exc_info=True)
        await end(self._llm, self._stop_s_max)

    async def _add(self, adapter: str, request: Any) -> None:
        """Has vLLM read an adapter now: one that cannot be had would end its process with the first request for it."""
        try:
            await self._llm.add_lora(request)
        except Exception as error:
            if not self.alive:
                raise
            raise ConfigError(f"vllm.adapters.{adapter}: {error}; expected a LoRA adapter's folder") from None

    def _work(self, request: EngineRequest) -> Work:
        prompt = request.prompt
        room = self.context_tokens_max - len(prompt)
        if room < 1:
            raise InvalidField("window", f"it has {len(prompt)} tokens; expected less than {self.context_tokens_max}")
        tokens_max = min(request.sampling.output_tokens_max, room)
        return Work(
            number=str(next(self._numbers)),
            session=request.session,
            prompt=prompt,
            params=sampling_params(request.sampling, self._defaults, self._end_ids, tokens_max, self._forms),
            cache_salt=request.cache_salt,
            priority=request.priority if self._by_priority else 0,
            adapter=self._adapters[request.adapter] if request.adapter else None,
        )


def _bounds(config: Any, vllm: VllmSettings) -> Bounds:
    """What there is for residents in a vLLM of this configuration."""
    cache, scheduler = config.cache_config, config.scheduler_config
    # For windows that not all layers see whole, each of the two counts more than there is in some cases.
    blocks_tokens = cache.num_gpu_blocks * cache.block_size
    capacity = min(blocks_tokens, cache.kv_cache_size_tokens or blocks_tokens)
    # One block stands for none.
    capacity -= cache.block_size + int(capacity * scheduler.watermark)
    slots = scheduler.max_num_active_seqs or scheduler.max_num_seqs
    # A speculated token, or a state in place of keys and values, may be further than what the turn kept.
    is_exact = config.speculative_config is None and not config.model_config.is_hybrid
    return Bounds(
        count_max=min(vllm.residents_count_max, slots - 1) if is_exact else 0,
        tokens_max=int(capacity * vllm.residents_kv_share_max),
        tokens_min=vllm.resident_tokens_min,
        idle_s=vllm.resident_idle_ms / 1000,
        slots_count=slots,
        capacity_tokens=capacity,
        block_tokens=cache.block_size,
    )
