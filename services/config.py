"""The typed configuration of every process: one section a concern, each bound with its unit in its name.

Precedence: flags (overrides) over environment (`ISTHMUS_STORE__FRAGMENT_BYTES_MAX=…`) over the file (TOML or JSON,
given as a path or named by `ISTHMUS_CONFIG`) over the defaults below. A key that no section knows is refused by name.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX: Final = "ISTHMUS_"
ENV_CONFIG: Final = "ISTHMUS_CONFIG"
_DELIMITER: Final = "__"


class ConfigError(ValueError):
    """The configuration cannot be used: each line names a key, what was wrong and what was expected."""


class Section(BaseModel):
    """Base of all sections: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MeshSettings(Section):
    """The mesh as a whole: where it lives and how many of each room it runs."""

    home: Path = Path.home() / ".isthmus"
    # Also the name of the job queue, so that two meshes may share one Valkey.
    name: str = "isthmus"
    shards: int = Field(default=2, ge=1, le=64)
    replicas: int = Field(default=1, ge=1, le=64)
    # The tenant of callers without a credential.
    tenant_default: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")


class ValkeySettings(Section):
    """The connection to Valkey."""

    url: str = "redis://127.0.0.1:6379/0"
    # Connections a process holds at most; a command waits for a free one up to `pool_wait_ms_max`.
    connections_count_max: int = Field(default=64, ge=1)
    pool_wait_ms_max: int = Field(default=2_000, ge=1)
    connect_ms_max: int = Field(default=1_000, ge=1)
    command_ms_max: int = Field(default=5_000, ge=1)
    # Retries on connection errors alone, with exponential backoff and full jitter between the two bounds.
    retries_count_max: int = Field(default=3, ge=0)
    retry_backoff_ms_min: int = Field(default=20, ge=0)
    retry_backoff_ms_max: int = Field(default=500, ge=1)


class RpcSettings(Section):
    """Bounds of every gRPC server and channel."""

    # A message between rooms, and one at the gateway's edge. The contract's largest payload is 4 MiB of reply; what is
    # around it, with 4,096 counts, needs room too.
    message_bytes_max: int = Field(default=6 << 20, ge=1 << 16)
    edge_message_bytes_max: int = Field(default=16 << 20, ge=1 << 16)
    metadata_bytes_max: int = Field(default=16 << 10, ge=1 << 12)
    # Open rpcs a server holds; one more is OVERLOADED.
    concurrent_rpcs_max: int = Field(default=2_048, ge=1)
    keepalive_ms: int = Field(default=10_000, ge=1_000)
    keepalive_timeout_ms: int = Field(default=5_000, ge=100)
    # The deadline of a unary call whose caller gave none; streams end by keepalive or by their caller's deadline.
    deadline_ms_default: int = Field(default=10_000, ge=1)
    # Channels that a room keeps open; the one not asked for the longest is closed for a new one.
    channels_count_max: int = Field(default=256, ge=1)
    # Backoff of the channel's own reconnection.
    reconnect_ms_min: int = Field(default=50, ge=10)
    reconnect_ms_max: int = Field(default=1_000, ge=100)
    # Attempts of a call that is safe to repeat, the first included (gRPC takes at most 5).
    attempts_count_max: int = Field(default=3, ge=2, le=5)
    retry_backoff_ms_min: int = Field(default=20, ge=1)
    retry_backoff_ms_max: int = Field(default=500, ge=1)
    # How long open rpcs may go on once the process drains.
    drain_ms_max: int = Field(default=10_000, ge=0)


class MembershipSettings(Section):
    """Heartbeats, liveness and the ring."""

    heartbeat_interval_ms: int = Field(default=300, ge=10)
    # A member whose last heartbeat is older than this by Valkey's clock is dead.
    member_ttl_ms: int = Field(default=1_500, ge=50)
    ring_virtual_nodes: int = Field(default=128, ge=1, le=4_096)
    # No member gets more than this times its fair share while others are free.
    load_factor: float = Field(default=1.25, gt=1.0)


class StoreSettings(Section):
    """The context store."""

    # A fragment's UTF-8 text; longer texts are cut at safe places.
    fragment_bytes_max: int = Field(default=8_192, ge=64, le=65_536)
    # Where an epoch begins, as a share of the window's room, and how much of that summaries may take.
    window_low_ratio: float = Field(default=0.5, gt=0.0, lt=1.0)
    window_summary_share: float = Field(default=0.5, ge=0.0, le=1.0)
    # Estimated tokens that make a segment, of which the compressor makes a level-1 summary.
    segment_tokens: int = Field(default=4_096, ge=64)
    # Text of one OpenTurn or AppendMessages, of one document, and of one summary.
    append_bytes_max: int = Field(default=2 << 20, ge=1)
    document_bytes_max: int = Field(default=1 << 30, ge=1)
    summary_bytes_max: int = Field(default=64 << 10, ge=1_024, le=512 << 10)
    # Text of a document that goes to Valkey in one script call.
    document_batch_bytes_max: int = Field(default=512 << 10, ge=1)
    # What sessions and recent texts may take in memory, least recently used out first.
    hot_sessions_bytes_max: int = Field(default=256 << 20, ge=1)
    bodies_bytes_max: int = Field(default=32 << 20, ge=0)
    # Text that travels in a manifest, in one message of a stream, and in one page of a list.
    manifest_bytes_max: int = Field(default=256 << 10, ge=0)
    chunk_bytes_max: int = Field(default=768 << 10, ge=65_536, le=768 << 10)
    page_bytes_max: int = Field(default=1 << 20, ge=65_536, le=2 << 20)
    # Entries of the log that one read of Valkey returns.
    log_page_count_max: int = Field(default=1_000, ge=1, le=10_000)
    # Attempts of a write that finds the log moved on by another shard.
    revision_retries_count_max: int = Field(default=8, ge=1)
    lease_ms_min: int = Field(default=50, ge=1)
    lease_ms_max: int = Field(default=60_000, ge=1)
    # How often WaitTurn looks, and how long it waits at most.
    wait_poll_ms: int = Field(default=50, ge=5)
    wait_ms_max: int = Field(default=60_000, ge=1)
    # Segments that wait to be announced to the compressor; what is beyond is announced later.
    events_pending_count_max: int = Field(default=4_096, ge=1)
    events_retry_ms_min: int = Field(default=100, ge=1)
    events_retry_ms_max: int = Field(default=5_000, ge=1)


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
    # Texts of callers under work at once; one more is OVERLOADED.
    texts_concurrent_max: int = Field(default=4, ge=1)


class InferenceSettings(Section):
    """A model replica."""

    # `local` runs a small real model on the CPU; `scripted` makes text up at a set pace, for tests.
    engine: Literal["local", "scripted"] = "local"
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
    # Requests in the engine's batch, those that wait for a place in it, and when to come back if both are full.
    requests_running_max: int = Field(default=16, ge=1)
    requests_waiting_max: int = Field(default=64, ge=0)
    overload_retry_ms: int = Field(default=500, ge=1)
    # Shards that are asked in turn for a window when one does not answer.
    pull_attempts_count_max: int = Field(default=3, ge=1)
    # Text that goes to the tokenizer at once, and tokens whose vectors are looked up at once.
    tokenize_chars_max: int = Field(default=1 << 18, ge=1)
    embed_tokens_max: int = Field(default=1 << 15, ge=1)
    # Threads that tokenise and embed beside the event loop.
    text_threads_count: int = Field(default=2, ge=1, le=64)
    # The local engine: memory for keys and values, tokens in one step, threads (0: as many as there are cores).
    kv_cache_gib: int = Field(default=1, ge=1)
    batch_tokens_max: int = Field(default=2_048, ge=16)
    threads_count: int = Field(default=0, ge=0)
    # The scripted engine: pace (0 tokens a second: all at once), length of its replies, prefixes it remembers.
    scripted_ttft_ms: float = Field(default=0.0, ge=0.0)
    scripted_tokens_per_s: float = Field(default=0.0, ge=0.0)
    scripted_output_tokens: int = Field(default=64, ge=1)
    scripted_prefixes_count_max: int = Field(default=4_096, ge=1)


class GatewaySettings(Section):
    """The gateway's two edges."""

    # Turns under way at once; one more is OVERLOADED.
    turns_count_max: int = Field(default=512, ge=1)
    # The longest a turn may take, whatever its caller's deadline.
    turn_deadline_ms: int = Field(default=600_000, ge=1)
    # How long a turn stays its driver's without a renewal.
    lease_ms: int = Field(default=5_000, ge=300, le=60_000)
    # Windows planned anew for one turn, because the replica's exact count was over the model's bound.
    replans_count_max: int = Field(default=3, ge=0)
    # Output beyond this ends the reply as a length limit does.
    reply_bytes_max: int = Field(default=4_000_000, ge=1, le=4 << 20)
    # The model of turns that name none; None takes the first by name among those that are served.
    model_default: str | None = None
    # One attempt of a call to a shard, and how long one that is waited for answers at the latest.
    store_call_ms_max: int = Field(default=10_000, ge=1)
    wait_turn_ms: int = Field(default=5_000, ge=1)
    # How long a shard or replica that is away is waited for, and the waits in between: doubled, with jitter.
    upstream_wait_ms_max: int = Field(default=10_000, ge=0)
    retry_wait_ms_min: int = Field(default=20, ge=1)
    retry_wait_ms_max: int = Field(default=500, ge=1)
    # Telling the shard that a turn has failed.
    fail_turn_ms_max: int = Field(default=2_000, ge=1)
    # HTTP: requests open at once; one more is OVERLOADED.
    http_requests_count_max: int = Field(default=1_024, ge=1)
    # A request's body: 2 MiB of text, as JSON escapes it at worst; and how long it may take to arrive.
    http_body_bytes_max: int = Field(default=16 << 20, ge=1 << 10)
    http_body_ms_max: int = Field(default=30_000, ge=1)
    # A page of items ends once its text is past this.
    http_page_bytes_max: int = Field(default=4 << 20, ge=1)
    # An idle connection is closed after this, in whole seconds.
    http_keepalive_ms: int = Field(default=5_000, ge=1_000)


class TelemetrySettings(Section):
    """Traces and logs."""

    # Spans are exported only where this says to, such as `http://collector:4317`; ids are made in any case.
    otlp_endpoint: str | None = None
    sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
    spans_queue_count_max: int = Field(default=2_048, ge=512)
    log_level: str = Field(default="info", pattern=r"^(debug|info|warning|error)$")
    log_json: bool = True


class SupervisorSettings(Section):
    """The local supervisor behind `isthmus up`."""

    # Where the gateway listens; port 0 takes a free one.
    http: str = "127.0.0.1:8080"
    grpc: str = "127.0.0.1:8081"
    # The other processes' ports; keep them below the system's ephemeral range.
    port_min: int = Field(default=20_000, ge=1_024, le=65_535)
    port_max: int = Field(default=32_000, ge=1_024, le=65_535)
    # How long all processes may take to become ready, and how often one may die before it ever was.
    start_ms_max: int = Field(default=90_000, ge=1_000)
    start_deaths_count_max: int = Field(default=3, ge=1)
    probe_interval_ms: int = Field(default=50, ge=10)
    probe_ms_max: int = Field(default=1_000, ge=10)
    # Delay before what died is started again: doubled with each death in a row, forgotten after a healthy period.
    restart_delay_ms_min: int = Field(default=100, ge=1)
    restart_delay_ms_max: int = Field(default=5_000, ge=1)
    restart_healthy_ms: int = Field(default=10_000, ge=1)
    # How long the whole stop may take before what is left is killed.
    drain_ms_max: int = Field(default=15_000, ge=0)
    # isthmus.log: the size at which it is rotated, how many older ones are kept, and the longest line.
    log_bytes_max: int = Field(default=16 << 20, ge=1 << 12)
    log_files_count_max: int = Field(default=3, ge=0)
    log_line_bytes_max: int = Field(default=16 << 10, ge=256)
    # The embedded Valkey writes its log before it answers. `no` leaves bringing it to the disk to the supervisor, every
    # `disk_sync_ms`; `always` has Valkey do it before each answer, for who cannot lose a second to a power cut.
    # `everysec` is none of the choices: it answers before it writes while the disk is busy.
    appendfsync: Literal["no", "always"] = "no"
    disk_sync_ms: int = Field(default=1_000, ge=10)
    # The memory at which the embedded Valkey refuses writes (0: the machine's).
    valkey_memory_bytes_max: int = Field(default=0, ge=0)


_file: ContextVar[dict[str, Any] | None] = ContextVar("isthmus_config_file", default=None)


class _FileSource(PydanticBaseSettingsSource):
    """What the configuration file says, as the lowest source above the defaults."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return (_file.get() or {}).get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(_file.get() or {})


class Settings(BaseSettings):
    """All settings of a process. Made by `load_settings`; immutable from then on."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=_DELIMITER, extra="forbid", frozen=True, validate_default=True
    )

    mesh: MeshSettings = MeshSettings()
    valkey: ValkeySettings = ValkeySettings()
    rpc: RpcSettings = RpcSettings()
    membership: MembershipSettings = MembershipSettings()
    store: StoreSettings = StoreSettings()
    compressor: CompressorSettings = CompressorSettings()
    inference: InferenceSettings = InferenceSettings()
    gateway: GatewaySettings = GatewaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    supervisor: SupervisorSettings = SupervisorSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _FileSource(settings_cls)


def load_settings(path: Path | str | None = None, **overrides: Any) -> Settings:
    """The settings from overrides, environment, file and defaults, in that order.

    `path` is a `.toml` or `.json` file; None takes the one that ISTHMUS_CONFIG names, if any. `overrides` are sections:
    `load_settings(store={"fragment_bytes_max": 4096})`. Raises ConfigError naming every key that is unknown or wrong.
    """
    source = path or os.environ.get(ENV_CONFIG) or None
    values = _read_file(Path(source)) if source is not None else {}
    _refuse_unknown_environment()
    token = _file.set(values)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(each) for each in error.errors())) from None
    finally:
        _file.reset(token)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; expected a TOML or JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be parsed: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections at the top level, got {type(values).__name__}")
    return values


def _refuse_unknown_environment() -> None:
    """pydantic-settings ignores a variable of an unknown section; a typing error there would pass in silence."""
    sections = Settings.model_fields
    for name in os.environ:
        section, delimiter, _ = name.removeprefix(ENV_PREFIX).lower().partition(_DELIMITER)
        if name.startswith(ENV_PREFIX) and delimiter and section not in sections:
            raise ConfigError(f"{name}: unknown section {section!r}; expected one of {', '.join(sections)}")


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}; got {error['input']!r}"
    known = _names(location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1)
    return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}")


def _names(location: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
