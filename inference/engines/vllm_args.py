"""What vLLM is started with: Isthmus' own choices, and over them `vllm.engine_args`. No line of this needs vLLM."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

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
# Which of our settings an argument of vLLM's comes from.
_SOURCES: Final[Mapping[str, str]] = {
    "model": "vllm.model",
    "max_model_len": "inference.context_tokens_max",
    "max_num_batched_tokens": "inference.batch_tokens_max",
    "max_num_seqs": "inference.requests_running_max",
    "kv_cache_memory_bytes": "inference.kv_cache_gib",
    "served_model_name": "inference.model",
}
# Arguments whose name within vLLM's configuration is another one.
_ARGUMENTS: Final[Mapping[str, str]] = {"policy": "scheduling_policy", "cache_dtype": "kv_cache_dtype"}
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the engine runs."""

    is_cpu: bool
    cores_count: int


@dataclass(frozen=True, slots=True)
class Load:
    """What it loads: a model's folder, the name that it is served under, and the highest rank among the adapters."""

    folder: str
    name: str
    lora_rank_max: int = 0


def engine_arguments(settings: InferenceSettings, vllm: VllmSettings, machine: Machine, load: Load) -> dict[str, Any]:
    """The arguments by vLLM's names.

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
        ours |= {"dtype": "bfloat16", "enforce_eager": True, "block_size": 32}
        if not _PARALLEL & vllm.engine_args.keys():
            ours["distributed_executor_backend"] = "uni"
    if vllm.adapters:
        ours |= _for_adapters(len(vllm.adapters), load.lora_rank_max, machine)
    if "gpu_memory_utilization" in vllm.engine_args:
        # It has no effect beside a number of bytes.
        ours.pop("kv_cache_memory_bytes", None)
    return {**ours, **vllm.engine_args}


def _for_adapters(count: int, rank_max: int, machine: Machine) -> dict[str, Any]:
    # On a CPU, a request without an adapter reads the last place as if it were one (vllm-project/vllm#48421): it has
    # to stay empty.
    places = count + 1 if machine.is_cpu else min(count, _LORAS_IN_BATCH_MAX)
    return {
        "enable_lora": True,
        "max_loras": places,
        # All of them stay in memory: one that had to be read again, and could not, would take the engine down.
        "max_cpu_loras": max(count, places),
        "max_lora_rank": next((rank for rank in _LORA_RANKS if rank >= rank_max), rank_max),
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


def refuse_unknown(given: Iterable[str], known: Sequence[str]) -> None:
    """Raises ConfigError with a line for each argument that vLLM does not have, or that is set elsewhere."""
    lines = []
    for name in given:
        if name == "model":
            lines.append("vllm.engine_args.model: is set elsewhere; expected it as vllm.model")
        elif name not in known:
            near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "expected a field of vLLM's AsyncEngineArgs"
            lines.append(f"vllm.engine_args.{name}: vLLM has no such argument; {hint}")
    if lines:
        raise ConfigError("\n".join(lines))


def explain(error: Exception, vllm: VllmSettings) -> ConfigError:
    """What vLLM says against its arguments, by the keys that they come from."""
    if not isinstance(error, ValidationError):
        return ConfigError(f"{_mentioned(str(error), vllm)}: {_one_line(str(error))}")
    lines: dict[str, list[str]] = {}
    for each in error.errors():
        name = str(each["loc"][0]) if each["loc"] else ""
        message = _one_line(each["msg"]).removeprefix("Value error, ")
        if name:
            lines.setdefault(f"{_key(name, vllm)}: got {each['input']!r}", []).append(message)
        else:
            lines.setdefault(_mentioned(message, vllm), []).append(message)
    return ConfigError("\n".join(f"{key}: {'; or: '.join(messages)}" for key, messages in lines.items()))


def refuse_small_cache(available_bytes: int, token_bytes: int, context_tokens: int) -> None:
    """Raises ConfigError where keys and values of one context do not fit: vLLM says so only in its child's log."""
    needed_bytes = token_bytes * context_tokens
    if needed_bytes > available_bytes:
        raise ConfigError(
            f"inference.kv_cache_gib: {available_bytes / (1 << 30):.2f} GiB hold "
            f"{available_bytes // token_bytes} tokens of this model; expected {needed_bytes / (1 << 30):.2f} GiB for "
            f"the {context_tokens} of one context, or a smaller inference.context_tokens_max"
        )


def _key(name: str, vllm: VllmSettings) -> str:
    argument = _ARGUMENTS.get(name, name)
    return f"vllm.engine_args.{argument}" if argument in vllm.engine_args else _SOURCES.get(argument, f"vLLM's {name}")


def _mentioned(message: str, vllm: VllmSettings) -> str:
    """The keys whose arguments a message names."""
    named = set(_WORD.findall(message)) - {"model"}
    keys = dict.fromkeys(_key(name, vllm) for name in {**_SOURCES, **vllm.engine_args} if name in named)
    return ", ".join(keys) or "vllm.engine_args"


def _one_line(message: str) -> str:
    return " ".join(message.split())
