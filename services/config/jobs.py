"""Turns that run in the background, and who is told of their ends."""

from __future__ import annotations

from pydantic import Field

from services.config.section import Section


class JobSettings(Section):
    """Turns in the background: jobs that any gateway may run."""

    # Jobs that this gateway runs at once (0: it only takes them in), beside `gateway.turns_count_max`.
    turns_concurrent_max: int = Field(default=16, ge=0, le=4_096)
    # Jobs of a tenant that wait or run, and the bytes of their requests; one more is OVERLOADED.
    queued_count_max: int = Field(default=100_000, ge=1)
    queued_bytes_max: int = Field(default=256 << 20, ge=1)
    # How long a job may wait for its turn to be begun or begun anew: its session is busy, at the longest, for so long.
    queued_ms_max: int = Field(default=86_400_000, ge=1_000)
    # How long a turn that was opened stays its job's while the job is being queued.
    submit_ms_max: int = Field(default=10_000, ge=500, le=60_000)
    # Attempts of a job, those included whose gateway was lost, and the waits in between: doubled, half of it by chance.
    attempts_count_max: int = Field(default=8, ge=1, le=1_000)
    retry_ms_min: int = Field(default=500, ge=1)
    retry_ms_max: int = Field(default=60_000, ge=1)
    # What is kept of a tenant's jobs: dead letters with their requests, and how others ended. The oldest go first.
    dead_count_max: int = Field(default=1_000, ge=1)
    dead_bytes_max: int = Field(default=64 << 20, ge=1)
    ended_count_max: int = Field(default=1_000, ge=0)
    # How often a free place is noticed, and how often jobs that wait for a retry are looked at.
    poll_ms: int = Field(default=20, ge=5, le=1_000)
    schedule_ms: int = Field(default=100, ge=5)
    # When the jobs of a gateway that has died go to another, and when one that lost Valkey comes back.
    redelivery_ms: int = Field(default=10_000, ge=500)
    reconnect_ms: int = Field(default=500, ge=10)
    # How often a running job says how far it is, and how often the length of the queue is measured.
    progress_ms: int = Field(default=1_000, ge=50)
    depth_ms: int = Field(default=5_000, ge=100)
    # WaitOperation: how long it waits at most, and how often it looks.
    wait_ms_max: int = Field(default=60_000, ge=1)
    wait_poll_ms: int = Field(default=100, ge=10)


class WebhookSettings(Section):
    """Webhooks: who is told of the ends of turns in the background."""

    # Whether events may go to private, loopback and link-local addresses.
    private_allowed: bool = False
    # Endpoints of a tenant.
    endpoints_count_max: int = Field(default=16, ge=1, le=256)
    # Deliveries that this gateway makes at once, how long one may take, and what is read of its answer.
    deliveries_concurrent_max: int = Field(default=16, ge=0, le=1_024)
    delivery_ms_max: int = Field(default=15_000, ge=100)
    answer_bytes_max: int = Field(default=64 << 10, ge=0)
    # Attempts of a delivery, and the waits in between: doubled, half of each by chance.
    attempts_count_max: int = Field(default=12, ge=1, le=100)
    retry_ms_min: int = Field(default=5_000, ge=1)
    retry_ms_max: int = Field(default=3_600_000, ge=1)
    # Events that nobody took, kept for each tenant; the oldest go first.
    dead_count_max: int = Field(default=1_000, ge=1)
    poll_ms: int = Field(default=100, ge=5, le=1_000)
