"""How vLLM is started and ended. It blocks for as long as that takes, so it is done in a thread."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import multiprocessing
import os
from typing import Any, Final

import structlog
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from inference.engine import engine_failed
from inference.engines import vllm_args, vllm_refusals
from inference.engines.vllm_args import Load, Machine, Use
from services.config import ConfigError, InferenceSettings, VllmSettings
from services.cores import cores_count

# One start at a time: each kills what it has begun when it is given up, and on a GPU each measures what memory is free.
_STARTING: Final = asyncio.Lock()
# How often a start that was given up looks for the processes that it has begun.
_KILL_WAIT_S: Final = 0.1

_log = structlog.get_logger("vllm")


class Meter:
    """What vLLM's engine tells at every step. It stands in for a class of loggers, and for the logger of that class."""

    def __init__(self) -> None:
        self.steps = 0
        self.kv_use = 0.0

    def __call__(self, _config: Any, _engine_index: int = 0) -> Meter:
        return self

    def record(self, scheduler_stats: Any, *_more: Any, **_named: Any) -> None:
        """One step, with or without output; the long prompt's are among them."""
        self.steps += 1
        if scheduler_stats is not None:
            self.kv_use = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""

    def log(self) -> None:
        """Nothing to tell."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A vLLM that takes requests. The meter stands still where its use is not metered."""

    llm: Any
    meter: Meter


async def load(settings: InferenceSettings, vllm: VllmSettings, model: Load, use: Use) -> Loaded:
    """Starts vLLM on a model's folder; its time begins when no other is being started.

    Raises ConfigError for what it does not accept, ENGINE_FAILED where its process does not start, or not in time.
    Cancelled, it ends what it has begun.
    """
    async with _STARTING:
        others = set(multiprocessing.active_children())
        loading = asyncio.create_task(asyncio.to_thread(_load, settings, vllm, model, use))
        try:
            async with asyncio.timeout(vllm.start_ms_max / 1000):
                return await asyncio.shield(loading)
        except TimeoutError:
            await _give_up(loading, others)
            raise engine_failed(f"vLLM was not ready in vllm.start_ms_max, {vllm.start_ms_max} ms") from None
        except asyncio.CancelledError:
            await _give_up(loading, others)
            raise


async def _give_up(loading: asyncio.Task[Loaded], others: set[Any]) -> None:
    """Kills the processes of a start: its thread ends when they have."""
    while not loading.done():
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        await asyncio.wait([loading], timeout=_KILL_WAIT_S)
    if not loading.exception():
        await end(loading.result().llm, 0.0)


async def end(llm: Any, within_s: float) -> None:
    """Ends vLLM and its process, which is killed if it takes longer."""
    await asyncio.to_thread(_shut_down, llm, within_s)
    # vLLM leaves the threads behind its sockets to the garbage collector. The sockets were closed on this loop.
    await asyncio.to_thread(llm.engine_core.resources.ctx.term)


def _shut_down(llm: Any, within_s: float) -> None:
    manager = llm.engine_core.resources.engine_manager
    llm.shutdown(timeout=within_s)
    for process in getattr(manager, "processes", ()):
        process.join()


def _load(settings: InferenceSettings, vllm: VllmSettings, model: Load, use: Use) -> Loaded:
    machine = Machine(is_cpu=current_platform.is_cpu(), cores_count=cores_count())
    vllm_refusals.refuse_unknown(use, vllm, [field.name for field in dataclasses.fields(AsyncEngineArgs)])
    arguments = use.arguments(settings, vllm, machine, model)
    for variable, value in vllm_args.environment(settings, arguments, machine).items():
        os.environ.setdefault(variable, value)
    os.environ[vllm_args.OWNER_PID] = str(os.getpid())
    try:
        config = AsyncEngineArgs(**arguments).create_engine_config()
    except Exception as error:
        raise vllm_refusals.explain(error, use, vllm) from error
    _refuse_small_cache(config, use, vllm)
    # vLLM's modules stay for good: the collector need not go through them time and again, and for seconds at the end.
    gc.collect()
    gc.freeze()
    meter = Meter()
    meters: dict[str, Any] = {"stat_loggers": [meter]} if use.is_metered else {"disable_log_stats": True}
    try:
        return Loaded(AsyncLLM.from_vllm_config(config, **meters), meter)
    except Exception as error:
        raise engine_failed(f"vLLM did not start: {error}; its log says why") from error


def lora_rank_max(vllm: VllmSettings) -> int:
    """The highest rank among the adapters, for which memory is laid out."""
    ranks = [0]
    for name, folder in vllm.adapters.items():
        try:
            ranks.append(int(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"vllm.adapters.{name}: {folder / 'adapter_config.json'} has no rank `r`: {error}; "
                "expected a LoRA adapter's folder"
            ) from None
    return max(ranks)


def _refuse_small_cache(config: Any, use: Use, vllm: VllmSettings) -> None:
    """For models whose layers all keep keys and values of the whole window, in their own type."""
    cache, model = config.cache_config, config.model_config
    plain = (
        model.attn_type == "decoder"
        and not model.is_hybrid
        and not model.use_mla
        and model.get_sliding_window() is None
    )
    if cache.kv_cache_memory_bytes is None or cache.cache_dtype != "auto" or not plain:
        return
    parallel = config.parallel_config
    layers, heads = model.get_num_layers(parallel), model.get_num_kv_heads(parallel)
    token_bytes = 2 * layers * heads * model.get_head_size() * model.dtype.itemsize
    vllm_refusals.refuse_small_cache(use, vllm, cache.kv_cache_memory_bytes, token_bytes, model.max_model_len)
