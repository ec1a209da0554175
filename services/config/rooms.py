"""The rooms in the background: compressor and inference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import Field, field_validator

from services.config.audits import AuditSettings
from services.config.pools import POOL_DEFAULT
from services.config.section import Section

_ENGINE: Final = re.compile(r"local|vllm|scripted|(openai|openai-chat|anthropic):https?://[^/\s]+(/\S*)?")


class CompressorSettings(Section):
    """The compressor."""

    # A summary's tokens: this share of its source's, and at most so many. It has at least a token a sentence.
    summary_ratio: float = Field(default=0.125, gt=0.0, le=1.0)
    summary_tokens_max: int = Field(default=512, ge=16, le=1_024)
    # A longer sentence is cut between words.
    sentence_chars_max: int = Field(default=512, ge=16, le=16_384)
    # Extracts of one text that are counted until one fills its bound.
    fit_attempts_count_max: int = Field(default=4, ge=1)
    # Jobs at once, how often a free place looks for the next, and how often jobs that wait for a retry are looked at.
    jobs_concurrent_max: int = Field(default=4, ge=1, le=256)
    job_poll_ms: int = Field(default=10, ge=5, le=1_000)
    job_schedule_ms: int = Field(default=100, ge=5)
    # When the jobs of a worker that has died go to another, and when a worker that lost Valkey comes back.
    job_redelivery_ms: int = Field(default=10_000, ge=500)
    job_reconnect_ms: int = Field(default=500, ge=10)
    # Attempts of a job whose store or replica is away, and the waits in between: doubled each time.
    job_attempts_count_max: int = Field(default=20, ge=1)
    job_retry_ms_min: int = Field(default=200, ge=1)
    job_retry_ms_max: int = Field(default=30_000, ge=1)
    # Of these, how many insist on exact counts; later ones do without.
    job_counted_attempts_count_max: int = Field(default=5, ge=0)
    # One call to a shard or a replica; replicas that are asked in turn; text that goes to one of them at once.
    call_ms_max: int = Field(default=10_000, ge=1)
    count_attempts_count_max: int = Field(default=3, ge=1)
    count_bytes_max: int = Field(default=1 << 20, ge=1 << 10, le=2 << 20)
    # Of a document that gets vectors: fragments that are read in one call, passages and bytes that are embedded in one.
    embed_read_count_max: int = Field(default=256, ge=1, le=4_096)
    embed_texts_count_max: int = Field(default=256, ge=1, le=1_024)
    embed_bytes_max: int = Field(default=1 << 20, ge=65_536, le=3 << 20)
    # Texts of callers under work at once; one more is OVERLOADED.
    texts_concurrent_max: int = Field(default=4, ge=1)
    # Audits of replies. Gateways read the same section, for what is kept.
    audits: AuditSettings = AuditSettings()


class InferenceSettings(Section):
    """A model replica."""

    # `local` runs a small real model on the CPU, `vllm` any model in this process, `openai:URL` stands before a server
    # of OpenAI's shape that completes token ids, `openai-chat:URL` and `anthropic:URL` before providers that take
    # conversations, and `scripted` makes text up at a set pace, for tests.
    engine: str = Field(default="local", max_length=1_024)
    # The pool that the replica is of, by which gateways route (`gateway.pools`), and where it is.
    pool: str = Field(default=POOL_DEFAULT, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    region: str = Field(default="", max_length=63, pattern=r"^[\x21-\x7e]*$")
    # The name under which the model is served; None takes the engine's own.
    model: str | None = Field(default=None, min_length=1, max_length=256)
    # None takes what the model was trained for; a smaller number saves memory.
    context_tokens_max: int | None = Field(default=None, ge=256)
    max_output_tokens_default: int = Field(default=512, ge=1)
    # Converted tokenizers; rebuilt when absent.
    cache_dir: Path = Path.home() / ".cache" / "isthmus"
    # Token ids of the sessions seen last.
    window_cache_bytes_max: int = Field(default=512 << 20, ge=0)
    # A window that turns out this many times longer than the model takes is not read to its end.
    window_excess_factor_max: float = Field(default=4.0, ge=1.0)
    # Requests in the engine's batch, and those that wait for a place in it; one more is OVERLOADED.
    requests_running_max: int = Field(default=16, ge=1)
    requests_waiting_max: int = Field(default=64, ge=0)
    # Tokens that waiting requests bring and the window cache did not know; tokens of windows and replies in the
    # batch, 0 for no bound. A single request may be larger than either.
    waiting_tokens_max: int = Field(default=4 << 20, ge=1)
    running_tokens_max: int = Field(default=0, ge=0)
    # Windows that are read from shards at once.
    pulls_concurrent_max: int = Field(default=8, ge=1)
    # How much earlier a request counts as come for each step of priority: it is passed by later ones for so long.
    priority_step_ms: int = Field(default=1_000, ge=1)
    # When to come back after OVERLOADED follows from how fast the queue moves, within these.
    overload_retry_ms: int = Field(default=500, ge=1)
    overload_retry_ms_max: int = Field(default=60_000, ge=1)
    # An engine that makes no step for so long while requests wait for its output is stuck, and started again: at most
    # so often in a while, then the process ends. And how long a stop and a start may take.
    engine_stall_ms_max: int = Field(default=120_000, ge=100)
    engine_restarts_count_max: int = Field(default=3, ge=0)
    engine_restart_window_ms: int = Field(default=3_600_000, ge=1)
    engine_stop_ms_max: int = Field(default=60_000, ge=1)
    engine_start_ms_max: int = Field(default=1_800_000, ge=1)
    # Outputs of the engine that become one delta while the caller is busy with those before; then the engine waits.
    delta_outputs_count_max: int = Field(default=64, ge=1)
    # Shards that are asked in turn for a window when one does not answer.
    pull_attempts_count_max: int = Field(default=3, ge=1)
    # Text that goes to the tokenizer at once, and tokens whose vectors are looked up at once.
    tokenize_chars_max: int = Field(default=1 << 18, ge=1)
    embed_tokens_max: int = Field(default=1 << 15, ge=1)
    # Threads that tokenise and embed beside the event loop.
    text_threads_count: int = Field(default=2, ge=1, le=64)
    # The local engine, and vLLM on a CPU: memory for keys and values, tokens in one step, threads (0: as many as there
    # are cores; unless it is set, `isthmus up` gives each of its replicas with vLLM its share of them).
    kv_cache_gib: int = Field(default=1, ge=1)
    batch_tokens_max: int = Field(default=2_048, ge=16)
    threads_count: int = Field(default=0, ge=0)
    # The scripted engine: pace (0 tokens a second: all at once), length of its replies, prefixes it remembers.
    scripted_ttft_ms: float = Field(default=0.0, ge=0.0)
    scripted_tokens_per_s: float = Field(default=0.0, ge=0.0)
    scripted_output_tokens: int = Field(default=64, ge=1)
    scripted_prefixes_count_max: int = Field(default=4_096, ge=1)

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        if not _ENGINE.fullmatch(engine):
            raise ValueError(
                "expected 'local', 'vllm', 'scripted', or 'openai:', 'openai-chat:' or 'anthropic:' with"
                " a server's http or https URL"
            )
        return engine
