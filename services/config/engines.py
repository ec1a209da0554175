"""The engines that have settings of their own: vLLM, and servers of OpenAI's and Anthropic's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from services.config.section import Section

# As the contract bounds the name of a model.
_NAME_BYTES_MAX: Final = 256


class VllmSettings(Section):
    """The engine `vllm`."""

    # A folder in Hugging Face's layout, or a name that vLLM finds in its cache; None takes the model that comes along.
    model: str | None = Field(default=None, min_length=1, max_length=1_024)
    # Any of vLLM's engine arguments by its own name (tensor_parallel_size, quantization, kv_cache_dtype,
    # kv_transfer_config, …), over what Isthmus sets. Checked at start.
    engine_args: dict[str, Any] = Field(default_factory=dict)
    # Adapters (LoRA) by the names under which they are asked for as models.
    adapters: dict[str, Path] = Field(default_factory=dict, max_length=64)
    # The model that makes vectors of texts, a vLLM by itself beside any engine: a folder or a name as above; None takes
    # the static one that comes along. Its arguments by vLLM's names, and the texts that it works on at once.
    embedding_model: str | None = Field(default=None, min_length=1, max_length=1_024)
    embedding_args: dict[str, Any] = Field(default_factory=dict)
    embedding_texts_concurrent_max: int = Field(default=64, ge=1)
    # How long each of the two may take to load, and to stop.
    start_ms_max: int = Field(default=1_800_000, ge=1_000)
    stop_ms_max: int = Field(default=30_000, ge=1_000)
    # Sessions that stay open in the engine: how many, their tokens as a share of the KV cache, how long one may idle.
    residents_count_max: int = Field(default=8, ge=0)
    residents_kv_share_max: float = Field(default=0.5, ge=0.0, le=0.9)
    resident_idle_ms: int = Field(default=120_000, ge=100)
    # A window below this is resent: a prefix hit on it costs as little.
    resident_tokens_min: int = Field(default=4_096, ge=1)

    @field_validator("adapters")
    @classmethod
    def _can_be_asked_for(cls, adapters: dict[str, Path]) -> dict[str, Path]:
        for name in adapters:
            # Replicas announce their names with commas between them.
            if not name or "," in name or not name.isprintable() or len(name.encode()) > _NAME_BYTES_MAX:
                raise ValueError(
                    f"{name!r} cannot be asked for as a model; expected a name of 1 to {_NAME_BYTES_MAX} bytes that can"
                    " be printed and has no comma"
                )
        return adapters


class OpenAISettings(Section):
    """The engines `openai:URL`, a server that completes prompts of token ids, such as `vllm serve`; and
    `openai-chat:URL`, one that takes conversations.
    """

    # The model there; None takes the first that it lists.
    model: str | None = Field(default=None, min_length=1, max_length=256)
    # The folder with the model's tokenizer, in Hugging Face's layout; None takes that of the model that comes along.
    tokenizer: Path | None = None
    # The environment variable that holds the key, if one is wanted.
    api_key_env: str = Field(default="OPENAI_API_KEY", min_length=1, max_length=256)
    connect_ms_max: int = Field(default=5_000, ge=1)
    # Silence on a stream after which it counts as broken; a long prompt is silent while it is read.
    silence_ms_max: int = Field(default=300_000, ge=1)
    # Whether to send what vLLM's servers take and others may refuse: a cache salt for each tenant, priorities, the ids
    # that end a reply, and that the reply's ids are told.
    vllm_fields: bool = True
    # What `openai-chat:URL` calls the reply's length: newer models of OpenAI take `max_completion_tokens` alone.
    chat_length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


class AnthropicSettings(Section):
    """The engine `anthropic:URL`: a provider that has the Messages API."""

    # The model there; the engine does not start without one.
    model: str | None = Field(default=None, min_length=1, max_length=256)
    # The environment variable that holds the key.
    api_key_env: str = Field(default="ANTHROPIC_API_KEY", min_length=1, max_length=256)
    # The version of the API that is asked for.
    version: str = Field(default="2023-06-01", min_length=1, max_length=63)
    connect_ms_max: int = Field(default=5_000, ge=1)
    # Silence on a stream after which it counts as broken; the API pings while it thinks.
    silence_ms_max: int = Field(default=60_000, ge=1)
