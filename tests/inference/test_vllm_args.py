"""What vLLM is started with, on a CPU and on a GPU, and what is said about arguments that it does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from inference.engines.vllm_args import (
    EMBEDDING,
    GENERATING,
    Load,
    Machine,
    embedding_arguments,
    engine_arguments,
    environment,
)
from inference.engines.vllm_refusals import explain, refuse_small_cache, refuse_unknown
from services.config import ConfigError, InferenceSettings, VllmSettings

CPU = Machine(is_cpu=True, cores_count=2)
GPU = Machine(is_cpu=False, cores_count=16)
LOAD = Load("/models/one", "one")
# What only a CPU wants: on a GPU it would cost speed, or be refused.
CPU_ONLY = {"enforce_eager", "distributed_executor_backend", "block_size", "dtype", "kv_cache_memory_bytes"}


def arguments(machine: Machine, vllm: VllmSettings | None = None, **settings: Any) -> dict[str, Any]:
    return engine_arguments(InferenceSettings(**settings), vllm or VllmSettings(), machine, LOAD)


def test_every_engine_keeps_places_for_residents_and_order_of_priority() -> None:
    vllm = VllmSettings(residents_count_max=3)
    for machine in (CPU, GPU):
        made = arguments(machine, vllm, requests_running_max=4, context_tokens_max=1_000)
        assert made["max_num_seqs"] == 7
        assert made["max_model_len"] == 1_000
        assert made["scheduling_policy"] == "priority"
        assert made["enable_prefix_caching"]
        assert (made["model"], made["served_model_name"]) == ("/models/one", "one")


def test_a_cpu_gets_what_was_measured_there() -> None:
    made = arguments(CPU, kv_cache_gib=3, batch_tokens_max=512)
    assert made.keys() >= CPU_ONLY
    assert made["kv_cache_memory_bytes"] == 3 << 30
    assert made["max_num_batched_tokens"] == 512
    assert arguments(CPU, requests_running_max=64, batch_tokens_max=16)["max_num_batched_tokens"] == 72


def test_a_gpu_is_measured_by_vllm_unless_somebody_set_a_bound() -> None:
    assert not arguments(GPU).keys() & {*CPU_ONLY, "max_num_batched_tokens"}
    made = arguments(GPU, kv_cache_gib=40, batch_tokens_max=8_192)
    assert (made["kv_cache_memory_bytes"], made["max_num_batched_tokens"]) == (40 << 30, 8_192)


def test_the_users_arguments_lie_over_ours() -> None:
    vllm = VllmSettings(engine_args={"dtype": "float32", "quantization": "fp8", "max_num_seqs": 99})
    made = arguments(CPU, vllm)
    assert (made["dtype"], made["quantization"], made["max_num_seqs"]) == ("float32", "fp8", 99)


def test_a_share_of_the_memory_stands_in_for_a_number_of_bytes() -> None:
    vllm = VllmSettings(engine_args={"gpu_memory_utilization": 0.3})
    assert "kv_cache_memory_bytes" not in arguments(CPU, vllm)


def test_several_processes_for_a_model_are_vllms_own_affair() -> None:
    vllm = VllmSettings(engine_args={"tensor_parallel_size": 2})
    made = arguments(CPU, vllm)
    assert "distributed_executor_backend" not in made
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment(InferenceSettings(), made, CPU)


def test_adapters_are_asked_for_only_where_there_are_any() -> None:
    assert not any("lora" in name for name in arguments(CPU))
    vllm = VllmSettings(adapters={str(index): Path(f"/adapters/{index}") for index in range(6)})
    made = engine_arguments(InferenceSettings(), vllm, GPU, Load("/models/one", "one", lora_rank_max=20))
    assert made["enable_lora"]
    assert (made["max_loras"], made["max_cpu_loras"], made["max_lora_rank"]) == (4, 6, 32)
    made = engine_arguments(InferenceSettings(), vllm, CPU, Load("/models/one", "one", lora_rank_max=8))
    assert (made["max_loras"], made["max_cpu_loras"], made["max_lora_rank"]) == (7, 7, 8), "one place stays empty"


def adapters(*names: str) -> dict[str, Path]:
    return {name: Path(f"/adapters/{name}") for name in names}


def test_a_place_for_adapters_stays_empty_on_a_cpu() -> None:
    for places in (1, 2):
        vllm = VllmSettings(adapters=adapters("a", "b"), engine_args={"max_loras": places})
        expected = rf"^vllm.engine_args.max_loras: got {places} for the 2 of vllm.adapters; expected 3 or more on a CPU"
        with pytest.raises(ConfigError, match=expected):
            arguments(CPU, vllm)
        assert (arguments(GPU, vllm)["max_loras"], arguments(GPU, vllm)["max_cpu_loras"]) == (places, 2)
    vllm = VllmSettings(adapters=adapters("a", "b"), engine_args={"max_loras": 5})
    for machine in (CPU, GPU):
        assert (arguments(machine, vllm)["max_loras"], arguments(machine, vllm)["max_cpu_loras"]) == (5, 5)


def test_adapters_have_names_that_can_be_asked_for() -> None:
    for name in ("", "a,b", "a\nb", "a\x00", "\ud800", "x" * 257, "é" * 129):
        with pytest.raises(ValidationError, match="cannot be asked for as a model; expected a name of 1 to 256 bytes"):
            VllmSettings(adapters=adapters(name))
    VllmSettings(adapters=adapters("org/legal-v1.2", "日本語", "x" * 256))
    with pytest.raises(ConfigError, match=r"^vllm.adapters.one: is the name of the model itself"):
        arguments(CPU, VllmSettings(adapters=adapters("one")))


def vectors(machine: Machine, load: Load = LOAD, **vllm: Any) -> dict[str, Any]:
    return embedding_arguments(InferenceSettings(context_tokens_max=999), VllmSettings(**vllm), machine, load)


def test_a_model_for_vectors_pools_as_it_says_or_by_the_mean() -> None:
    for machine in (CPU, GPU):
        made = vectors(machine, embedding_texts_concurrent_max=9, engine_args={"dtype": "float32"})
        assert (made["runner"], made["max_num_seqs"], made["enable_prefix_caching"]) == ("pooling", 9, False)
        assert not made.keys() & {"pooler_config", "max_model_len", "dtype", "scheduling_policy"}
    silent = Load("/models/one", "one", is_silent=True)
    assert vectors(GPU, silent)["pooler_config"] == {"pooling_type": "MEAN"}
    last = {"pooling_type": "LAST"}
    assert vectors(GPU, silent, embedding_args={"pooler_config": last})["pooler_config"] == last


def test_a_model_for_vectors_has_a_cpu_as_one_that_generates_has_it() -> None:
    made = vectors(CPU)
    assert (made["enforce_eager"], made["distributed_executor_backend"]) == (True, "uni")
    assert made["kv_cache_memory_bytes"] == 1 << 30
    assert not vectors(GPU).keys() & {"enforce_eager", "distributed_executor_backend", "kv_cache_memory_bytes"}
    assert "kv_cache_memory_bytes" not in vectors(CPU, embedding_args={"gpu_memory_utilization": 0.2})


def test_the_environment_of_a_cpu_and_of_a_gpu() -> None:
    both = {"VLLM_WORKER_MULTIPROC_METHOD", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"}
    assert set(environment(InferenceSettings(), arguments(GPU), GPU)) == both
    made = environment(InferenceSettings(), arguments(CPU), CPU)
    assert set(made) == {*both, "OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING", "TORCHDYNAMO_DISABLE"}
    assert made["OMP_NUM_THREADS"] == "2"
    assert environment(InferenceSettings(threads_count=5), arguments(CPU), CPU)["OMP_NUM_THREADS"] == "5"
    compiled = arguments(CPU, VllmSettings(engine_args={"enforce_eager": False}))
    assert "TORCHDYNAMO_DISABLE" not in environment(InferenceSettings(), compiled, CPU)


def test_unknown_arguments_are_told_all_at_once_with_the_nearest_names() -> None:
    known = ["max_num_seqs", "dtype", "model"]
    given = {"max-num-seq": 1, "zzz": 1, "model": "x", "dtype": "auto"}
    with pytest.raises(ConfigError) as caught:
        refuse_unknown(GENERATING, VllmSettings(engine_args=given), known)
    assert str(caught.value).splitlines() == [
        "vllm.engine_args.max-num-seq: vLLM has no such argument; did you mean 'max_num_seqs'?",
        "vllm.engine_args.zzz: vLLM has no such argument; expected a field of vLLM's AsyncEngineArgs",
        "vllm.engine_args.model: is set elsewhere; expected it as vllm.model",
    ]
    refuse_unknown(GENERATING, VllmSettings(engine_args={"dtype": "auto"}, embedding_args=given), known)
    with pytest.raises(ConfigError) as caught:
        refuse_unknown(EMBEDDING, VllmSettings(embedding_args={"zzz": 1, "model": "x"}), known)
    assert str(caught.value).splitlines() == [
        "vllm.embedding_args.zzz: vLLM has no such argument; expected a field of vLLM's AsyncEngineArgs",
        "vllm.embedding_args.model: is set elsewhere; expected it as vllm.embedding_model",
    ]


@dataclass
class Config:
    """As vLLM's own are made."""

    dtype: Literal["auto", "float32"] | int = "auto"
    policy: Literal["fcfs", "priority"] = "priority"
    max_num_seqs: int = Field(default=1, ge=1)
    max_model_len: int = 1

    @field_validator("max_model_len")
    @classmethod
    def _length(cls, value: int) -> int:
        if value > 10:
            raise ValueError(f"max_model_len ({value}) is greater\n   than  10")
        return value


def refusal(**values: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Config).validate_python(values)
    return caught.value


def test_a_value_that_vllm_refuses_is_named_by_its_key_with_vllms_own_words() -> None:
    vllm = VllmSettings(engine_args={"dtype": "float99", "scheduling_policy": "lifo"})
    told = str(explain(refusal(dtype="float99"), GENERATING, vllm))
    assert told.startswith(
        "vllm.engine_args.dtype: got 'float99': Input should be 'auto' or 'float32'; or: Input should"
    )
    assert len(told.splitlines()) == 1
    told = str(explain(refusal(policy="lifo"), GENERATING, vllm))
    assert told == "vllm.engine_args.scheduling_policy: got 'lifo': Input should be 'fcfs' or 'priority'"


def test_a_value_of_ours_is_named_by_the_setting_that_it_came_from() -> None:
    told = str(explain(refusal(max_num_seqs=0, max_model_len=11), GENERATING, VllmSettings()))
    assert told.splitlines() == [
        "inference.requests_running_max: got 0: Input should be greater than or equal to 1",
        "inference.context_tokens_max: got 11: max_model_len (11) is greater than 10",
    ]


def test_an_error_without_a_field_is_told_by_the_arguments_that_it_names() -> None:
    vllm = VllmSettings(engine_args={"quantization": "fp8"})
    told = str(explain(ValueError("max_model_len does not go\nwith quantization"), GENERATING, vllm))
    assert told == (
        "inference.context_tokens_max, vllm.engine_args.quantization: max_model_len does not go with quantization"
    )
    assert str(explain(OSError("no such thing"), GENERATING, vllm)) == "vllm.engine_args: no such thing"
    told = str(explain(ValueError("max_num_seqs and dtype"), EMBEDDING, VllmSettings(embedding_args={"dtype": 1})))
    assert told.startswith("vllm.embedding_texts_concurrent_max, vllm.embedding_args.dtype: ")


def test_a_cache_too_small_for_one_context_is_refused_before_anything_starts() -> None:
    vllm = VllmSettings(embedding_args={"kv_cache_memory_bytes": 1 << 30})
    refuse_small_cache(GENERATING, vllm, available_bytes=1_000, token_bytes=10, context_tokens=100)
    with pytest.raises(ConfigError, match=r"^inference.kv_cache_gib: 1.00 GiB hold 1048576 tokens .* 2.00 GiB for the"):
        refuse_small_cache(GENERATING, vllm, available_bytes=1 << 30, token_bytes=1 << 10, context_tokens=1 << 21)
    expected = r"^vllm.embedding_args.kv_cache_memory_bytes: .* or a smaller vllm.embedding_args.max_model_len$"
    with pytest.raises(ConfigError, match=expected):
        refuse_small_cache(EMBEDDING, vllm, available_bytes=1 << 30, token_bytes=1 << 10, context_tokens=1 << 21)
