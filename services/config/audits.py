"""Audits of replies in the background, and the critic that judges them."""

from __future__ import annotations

from pydantic import Field

from services.config.section import Section


class AuditSettings(Section):
    """What one audit may take, and how long it is kept. Which turns are audited is `gateway.validation.audit_share`."""

    # The model that judges, by its name among those that replicas serve; empty judges by words alone.
    critic: str = Field(default="", max_length=256)
    # Claims of one reply that are judged, and of these so many with one call of the critic.
    claims_count_max: int = Field(default=64, ge=1, le=1_000)
    claims_per_call_max: int = Field(default=8, ge=1, le=64)
    # What the critic reads with one call, claims and the passages nearest to them; what it may say; how long it takes.
    evidence_bytes_max: int = Field(default=16_384, ge=256, le=131_072)
    verdict_tokens_max: int = Field(default=512, ge=16, le=4_096)
    critic_ms_max: int = Field(default=60_000, ge=1)
    # So much of a window is read for one audit.
    window_bytes_max: int = Field(default=8 << 20, ge=0)
    # How long verdicts and rates are kept, 30 days, and how many audits a tenant has in one day.
    kept_ms: int = Field(default=30 * 86_400_000, ge=60_000, le=366 * 86_400_000)
    day_count_max: int = Field(default=10_000, ge=1)
