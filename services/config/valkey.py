"""The connection to Valkey."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from services.config.section import Section


class ValkeySettings(Section):
    """The connection to Valkey."""

    # One node: `redis://` or `rediss://` (TLS); a cluster: `redis+cluster://host:port[,host:port…]` or
    # `rediss+cluster://`. In front of the hosts `user:password@` for an ACL, with / ? # % @ escaped; for TLS behind
    # them `?ssl_ca_certs=/path`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname` and `ssl_cert_reqs`.
    url: str = "redis://127.0.0.1:6379/0"
    # Connections a process holds at most; a command waits for a free one up to `pool_wait_ms_max`.
    connections_count_max: int = Field(default=64, ge=1)
    pool_wait_ms_max: int = Field(default=2_000, ge=1)
    # Writes asked for at the same moment that go to one node in one trip.
    trip_commands_count_max: int = Field(default=32, ge=1, le=1_024)
    connect_ms_max: int = Field(default=1_000, ge=1)
    command_ms_max: int = Field(default=5_000, ge=1)
    # Retries on connection errors alone (on one node), with exponential backoff and full jitter between the two bounds.
    retries_count_max: int = Field(default=3, ge=0)
    retry_backoff_ms_min: int = Field(default=20, ge=0)
    retry_backoff_ms_max: int = Field(default=200, ge=1)
    # How long a command waits for a primary that fails over, from its first failure on, and how often a client asks for
    # the topology meanwhile.
    failover_wait_ms_max: int = Field(default=4_000, ge=0)
    topology_refresh_ms_min: int = Field(default=100, ge=1)
    # Replicas that must hold a write before it is acknowledged (None: 1 in a cluster, 0 on one node), and how long they
    # and the disk are waited for: less than `command_ms_max`, which bounds the whole answer.
    replicas_ack_count: int | None = Field(default=None, ge=0, le=16)
    replica_wait_ms_max: int = Field(default=1_000, ge=1)
    disk_wait_ms_max: int = Field(default=2_000, ge=1)
    # What becomes of a write whose replicas or disk do not confirm it in time: refused, or acknowledged as degraded.
    replica_policy: Literal["refuse", "degrade"] = "refuse"

    @field_validator("replica_wait_ms_max", "disk_wait_ms_max")
    @classmethod
    def _ends_before_the_answer(cls, value: int, info: ValidationInfo) -> int:
        if value >= info.data.get("command_ms_max", value + 1):
            raise ValueError("must be less than command_ms_max")
        return value
