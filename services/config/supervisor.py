"""The local supervisor."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from services.config.section import Section


class SupervisorSettings(Section):
    """The local supervisor behind `isthmus up`."""

    # Where the gateway listens; port 0 takes a free one.
    http: str = "127.0.0.1:8080"
    grpc: str = "127.0.0.1:8081"
    # Settings of their own for the replicas, by number: `[{inference = {engine = "…", pool = "large"}}, …]`, each over
    # what all have. There are as many replicas as are named here, or as `mesh.replicas` says if that is more.
    replicas: tuple[dict[str, dict[str, Any]], ...] = Field(default=(), max_length=64)
    # The other processes' ports; keep them below the system's ephemeral range.
    port_min: int = Field(default=20_000, ge=1_024, le=65_535)
    port_max: int = Field(default=32_000, ge=1_024, le=65_535)
    # How long all processes may take to become ready, replicas with vLLM `vllm.start_ms_max` beyond that; and how often
    # one may die before it ever was.
    start_ms_max: int = Field(default=90_000, ge=1_000)
    start_deaths_count_max: int = Field(default=3, ge=1)
    probe_interval_ms: int = Field(default=50, ge=10)
    probe_ms_max: int = Field(default=1_000, ge=10)
    # Delay before what died is started again: doubled with each death in a row, forgotten after a healthy period.
    restart_delay_ms_min: int = Field(default=100, ge=1)
    restart_delay_ms_max: int = Field(default=5_000, ge=1)
    restart_healthy_ms: int = Field(default=10_000, ge=1)
    # How long the whole stop may take before what is left is killed; replicas with vLLM `vllm.stop_ms_max` beyond that.
    drain_ms_max: int = Field(default=15_000, ge=0)
    # isthmus.log: the size at which it is rotated, how many older ones are kept, and the longest line.
    log_bytes_max: int = Field(default=16 << 20, ge=1 << 12)
    log_files_count_max: int = Field(default=3, ge=0)
    log_line_bytes_max: int = Field(default=16 << 10, ge=256)
    # The Valkey that a mesh runs on: `single`, one embedded node; `cluster`, three embedded primaries with a replica
    # each; or the URL of one's own, as in `valkey.url`.
    valkey: str = "single"
    # `always` has the embedded Valkey bring each write to the disk before it answers; with `no` a power cut loses what
    # the system had not written yet. `everysec` is none of the choices: while the disk is busy it answers before it
    # writes.
    appendfsync: Literal["always", "no"] = "always"
    # How long an embedded cluster's node is unheard of before its replica is voted in.
    cluster_node_timeout_ms: int = Field(default=700, ge=200, le=60_000)
    # What a primary keeps of its writes, so that a replica that was away for a moment need not copy everything.
    replication_backlog_bytes: int = Field(default=32 << 20, ge=16 << 10)
    # How many shards may run at once, with those that `isthmus shards add` brings.
    shards_count_max: int = Field(default=64, ge=1)
    # The door of `isthmus shards`: one request's bytes, connections at once, and how long a request or its answer may
    # take; an answer comes when a shard is ready or has drained.
    control_request_bytes_max: int = Field(default=4_096, ge=256)
    control_connections_count_max: int = Field(default=8, ge=1)
    control_ms_max: int = Field(default=180_000, ge=1_000)
    # The memory at which a node of the embedded Valkey refuses writes (0: the machine's).
    valkey_memory_bytes_max: int = Field(default=0, ge=0)
