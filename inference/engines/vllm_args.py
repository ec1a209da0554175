"""What a vLLM is started with: Isthmus' own choices, and over them the user's. No line of this needs vLLM.

A replica may run two, each with a `Use`: one generates, another makes vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.config import ConfigError, InferenceSettings, VllmSettings

# The process that holds the model ends with the room: `vllm_owner.py`.
OWNER_PID: Final = "ISTHMUS_VLLM_OWNER_PID"
_EXTENSION: Final = "inference.engines.vllm_owner.EndsWithRoom"
# Ranks that vLLM has memory laid out for.
_LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Adapters that may be in one batch; each takes memory beside the model.
_LORAS_IN_BATCH_MAX: Final = 4
# More than one process for the model: then it is vLLM that says how they are started.
_PARALLEL: Final = frozenset(
    {"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"}
)
# Arguments whose name within vLLM's configuration is another one.
_ARGUMENTS: Final[Mapping[str, str]] = {"policy": "scheduling_policy", "cache_dtype": "kv_cache_dtype"}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the engine runs."""

    is_cpu: bool
    cores_count: int


@dataclass(frozen=True, slots=True)
class Load:
    """What it loads: a model's folder, the name that it is served under, and the highest rank among the adapters.

    `is_silent` is one that does not say how its tokens' vectors become one.
    """

    folder: str
    name: str
    lora_rank_max: int = 0
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """What a vLLM is for: the setting with its arguments by vLLM's names, and where others of them come from.

    One in a process `is_metered`: metrics of a second would take the place of the first's, which have the same names.
    """

    setting: str
    sources: Mapping[str, str]
    arguments: Callable[[InferenceSettings, VllmSettings, Machine, Load], dict[str, Any]]
    is_metered: bool

    def given(self, vllm: VllmSettings) -> dict[str, Any]:
        """The user's arguments."""
        arguments: dict[str, Any] = getattr(vllm, self.setting)
        return arguments

    def own_key(self, argument: str) -> str:
        """The key by which an argument is given by its own name."""
        return f"vllm.{self.setting}.{argument}"

    def key(self, name: str, vllm: VllmSettings) -> str:
        """The key that an argument comes from, which may have another name within vLLM's configuration."""
        argument = _ARGUMENTS.get(name, name)
        if argument in self.given(vllm):
            return self.own_key(argument)
        return self.sources.get(argument, f"vLLM's {name}")


def engine_arguments(settings: InferenceSettings, vllm: VllmSettings, machine: Machine, load: Load) -> dict[str, Any]:
    """The arguments of the one that generates, by vLLM's names. Raises ConfigError for adapters that cannot be served.

    On a GPU, vLLM's own measure of its memory is better than our defaults: a bound there holds only if somebody set it.
    """
    seqs_max = settings.requests_running_max + vllm.residents_count_max
    ours: dict[str, Any] = {
        "model": load.folder,
        "served_model_name": load.name,
        "max_model_len": settings.context_tokens_max,
        "max_num_seqs": seqs_max,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        # A small model goes on with blanks until its tokens are spent, wherever JSON allows one.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "worker_extension_cls": _EXTENSION,
    }
    if machine.is_cpu or "kv_cache_gib" in settings.model_fields_set:
        ours["kv_cache_memory_bytes"] = settings.kv_cache_gib << 30
    if machine.is_cpu or "batch_tokens_max" in settings.model_fields_set:
        ours["max_num_batched_tokens"] = max(settings.batch_tokens_max, seqs_max)
    if machine.is_cpu:
        ours |= {"dtype": "bfloat16", "block_size": 32, **_on_cpu(vllm.engine_args)}
    if vllm.adapters:
        ours |= _for_adapters(vllm, machine, load)
    return _over(ours, vllm.engine_args)


def embedding_arguments(
    settings: InferenceSettings, vllm: VllmSettings, machine: Machine, load: Load
) -> dict[str, Any]:
    """The arguments of the one that makes vectors. Its context is what the model was trained for."""
    ours: dict[str, Any] = {
        "model": load.folder,
        "served_model_name": load.name,
        "runner": "pooling",
        "max_num_seqs": vllm.embedding_texts_concurrent_max,
        # Texts come without their tenant: one that is found again faster would tell what another tenant has sent.
        "enable_prefix_caching": False,
        "worker_extension_cls": _EXTENSION,
    }
    if load.is_silent:
        ours["pooler_config"] = {"pooling_type": "MEAN"}
    if machine.is_cpu:
        ours |= {"kv_cache_memory_bytes": settings.kv_cache_gib << 30, **_on_cpu(vllm.embedding_args)}
    return _over(ours, vllm.embedding_args)


GENERATING: Final = Use(
    "engine_args",
    {
        "model": "vllm.model",
        "max_model_len": "inference.context_tokens_max",
        "max_num_batched_tokens": "inference.batch_tokens_max",
        "max_num_seqs": "inference.requests_running_max",
        "kv_cache_memory_bytes": "inference.kv_cache_gib",
        "served_model_name": "inference.model",
    },
    engine_arguments,
    is_metered=True,
)
EMBEDDING: Final = Use(
    "embedding_args",
    {
        "model": "vllm.embedding_model",
        "max_model_len": "vllm.embedding_args.max_model_len",
        "max_num_seqs": "vllm.embedding_texts_concurrent_max",
        "kv_cache_memory_bytes": "inference.kv_cache_gib",
    },
    embedding_arguments,
    is_metered=False,
)


def _on_cpu(given: Mapping[str, Any]) -> dict[str, Any]:
    one_process = {} if _PARALLEL & given.keys() else {"distributed_executor_backend": "uni"}
    return {"enforce_eager": True, **one_process}


def _over(ours: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if "gpu_memory_utilization" in given:
        # It has no effect beside a number of bytes.
        ours.pop("kv_cache_memory_bytes", None)
    return {**ours, **given}


def _for_adapters(vllm: VllmSettings, machine: Machine, load: Load) -> dict[str, Any]:
    if load.name in vllm.adapters:
        raise ConfigError(f"vllm.adapters.{load.name}: is the name of the model itself; expected another one")
    count = len(vllm.adapters)
    # On a CPU, a request without an adapter reads the last place as if it were one (vllm-project/vllm#48421): it has
    # to stay empty.
    places = count + 1 if machine.is_cpu else min(count, _LORAS_IN_BATCH_MAX)
    wanted = vllm.engine_args.get("max_loras", places)
    if machine.is_cpu and isinstance(wanted, int) and wanted < places:
        raise ConfigError(
            f"vllm.engine_args.max_loras: got {wanted} for the {count} of vllm.adapters; expected {places} or more on a"
            " CPU, or nothing"
        )
    return {
        "enable_lora": True,
        "max_loras": places,
        # All of them stay in memory: one that had to be read again, and could not, would take the engine down.
        "max_cpu_loras": max(count, wanted) if isinstance(wanted, int) else count,
        "max_lora_rank": next((rank for rank in _LORA_RANKS if rank >= load.lora_rank_max), load.lora_rank_max),
    }


def environment(settings: InferenceSettings, arguments: Mapping[str, Any], machine: Machine) -> dict[str, str]:
    """Variables for vLLM's processes, each for where it is not set.

    They are started anew instead of forked: a fork of a process with threads and gRPC in it may never come to life.
    """
    ours = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if not machine.is_cpu:
        return ours
    ours["OMP_NUM_THREADS"] = str(settings.threads_count or machine.cores_count)
    if arguments.get("distributed_executor_backend") == "uni":
        # Else vLLM starts a second process for the model, which loads everything once more.
        ours["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if arguments.get("enforce_eager"):
        # Else the first request with log probabilities has a function compiled for half a minute, and all others wait.
        ours["TORCHDYNAMO_DISABLE"] = "1"
    return ours
