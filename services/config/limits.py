"""What callers of the gateway may use up, and the line before its turns."""

from __future__ import annotations

import ipaddress

from pydantic import Field, field_validator

from services.config.section import Section
from services.limits.money import BUDGET_MICROS_MAX

# Beyond these a meter's millionths would not be whole numbers in Lua any more.
PER_MINUTE_MAX = 100_000_000


class CallerLimits(Section):
    """The limits of one tenant, one user or one address; None is no limit."""

    # A full minute's worth may come at once, and is given back evenly over a minute.
    requests_per_minute: int | None = Field(default=None, ge=1, le=PER_MINUTE_MAX)
    # Tokens that have to be computed: of the window what no cache holds, and of the reply all.
    tokens_per_minute: int | None = Field(default=None, ge=1, le=PER_MINUTE_MAX)
    # Turns in line or under way.
    turns_concurrent: int | None = Field(default=None, ge=1, le=100_000)
    # Millionths of the currency's unit in a calendar month (UTC).
    budget_monthly_micros: int | None = Field(default=None, ge=1, le=BUDGET_MICROS_MAX)


class Price(Section):
    """What a million tokens of a model cost, in millionths of the currency's unit."""

    input_micros: int = Field(default=0, ge=0, le=1 << 40)
    # Tokens of the window that a cache holds.
    cached_input_micros: int = Field(default=0, ge=0, le=1 << 40)
    output_micros: int = Field(default=0, ge=0, le=1 << 40)


class LimitsSettings(Section):
    """Limits of callers, kept in Valkey for all gateways together, and the fair line of each gateway."""

    # Whoever has no limits of his own set by `isthmus tenants set-limits`. Where there are none at all, no call pays a
    # trip for them.
    tenant: CallerLimits = CallerLimits()
    user: CallerLimits = CallerLimits()
    address: CallerLimits = CallerLimits()
    # Prices by the name of a model; `*` is any other. Without one a turn costs no money.
    prices: dict[str, Price] = Field(default_factory=dict)
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    # Addresses or networks (CIDR) whose `x-forwarded-for` is believed.
    proxies_trusted: tuple[str, ...] = ()
    # A turn's place among the concurrent ones, once its gateway does not renew it any more.
    lease_ms: int = Field(default=15_000, ge=300, le=600_000)
    # How often a gateway looks for limits that were set, and how many tenants may have their own.
    overrides_interval_ms: int = Field(default=1_000, ge=10)
    overrides_count_max: int = Field(default=10_000, ge=1)
    # Callers that a gateway remembers as refused, and refuses without a trip until they have something left.
    refused_count_max: int = Field(default=10_000, ge=0)
    # Sessions whose window's size is remembered, for what they would cost where no cache holds it.
    windows_count_max: int = Field(default=65_536, ge=0)
    # The line before `gateway.turns_count_max`: turns and their estimated tokens, of all tenants and of one (0: nobody
    # waits), and how long one waits at most.
    queue_turns_count_max: int = Field(default=1_024, ge=0)
    queue_tenant_turns_count_max: int = Field(default=256, ge=0)
    queue_tokens_max: int = Field(default=16_000_000, ge=1)
    queue_tenant_tokens_max: int = Field(default=8_000_000, ge=1)
    queue_wait_ms_max: int = Field(default=10_000, ge=1)
    # What RetryInfo says at least, and at most, of a line that is full.
    overload_retry_ms: int = Field(default=500, ge=1)
    overload_retry_ms_max: int = Field(default=30_000, ge=1)

    @field_validator("proxies_trusted")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError as error:
                raise ValueError(f"expected addresses or networks such as 10.0.0.0/8; {error}") from None
        return value
