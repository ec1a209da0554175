"""The mesh as a whole, its members, its gRPC and its telemetry."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.config.section import Section


class MeshSettings(Section):
    """The mesh as a whole: where it lives and how many of each room it runs."""

    home: Path = Path.home() / ".isthmus"
    # Also the name of the job queue, so that two meshes may share one Valkey.
    name: str = "isthmus"
    shards: int = Field(default=2, ge=1, le=64)
    replicas: int = Field(default=1, ge=1, le=64)
    gateways: int = Field(default=1, ge=1, le=16)
    # The tenant of callers without a credential.
    tenant_default: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")


class RpcSettings(Section):
    """Bounds of every gRPC server and channel."""

    # A message between rooms, and one at the gateway's edge. The contract's largest payload is 4 MiB of reply; what is
    # around it, with 4,096 counts, needs room too.
    message_bytes_max: int = Field(default=6 << 20, ge=1 << 16)
    edge_message_bytes_max: int = Field(default=16 << 20, ge=1 << 16)
    metadata_bytes_max: int = Field(default=16 << 10, ge=1 << 12)
    # What a stream's sender may send before its receiver has taken it: less stops a window's reading at every page.
    stream_ahead_bytes_max: int = Field(default=4 << 20, ge=1 << 16, le=64 << 20)
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
    # How long rpcs that were cancelled may clean up when the process stops.
    cleanup_ms_max: int = Field(default=2_000, ge=0)


class MembershipSettings(Section):
    """Heartbeats, liveness and the ring."""

    heartbeat_interval_ms: int = Field(default=300, ge=10)
    # The host, or host:port, that others reach this process at, if it is not what it listens on (0.0.0.0 in a pod).
    advertise: str | None = Field(default=None, min_length=1, max_length=256)
    # A member whose last heartbeat is older than this by Valkey's clock is dead.
    member_ttl_ms: int = Field(default=1_500, ge=50)
    # This member's share of the keys, against 1.0 of the others; `--weight` says so for one process.
    weight: float = Field(default=1.0, gt=0.0, le=64.0)
    # Points of a member of weight 1 on the ring, and the slots that keys are hashed to. The same in every process.
    ring_virtual_nodes: int = Field(default=512, ge=1, le=4_096)
    ring_slots_count: int = Field(default=65_536, ge=256, le=1 << 24)
    # No member owns more than this times its fair share of the slots. Chance adds to it where a member has few keys:
    # with 1,000 keys a member, 1.125 of slots keep every member within 1.25 of the mean.
    ring_share_factor: float = Field(default=1.125, ge=1.01, le=16.0)
    # No replica gets more than this times its fair share of the calls in flight while others are free, once it has
    # `gateway.spill_requests_count_min`.
    load_factor: float = Field(default=1.25, gt=1.0)


class TelemetrySettings(Section):
    """Traces and logs."""

    # Spans are exported only where this says to, such as `http://collector:4317`; ids are made in any case.
    otlp_endpoint: str | None = None
    sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
    spans_queue_count_max: int = Field(default=2_048, ge=512)
    log_level: str = Field(default="info", pattern=r"^(debug|info|warning|error)$")
    log_json: bool = True
