"""Pools of replicas, the routes to them, and how much their failures may cost."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from services.config.section import Section

# A rule names pools by name, or all pools of a tier.
TIER: Final = "tier:"
# Of replicas that announce none.
POOL_DEFAULT: Final = "default"
_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"


class PriceSettings(Section):
    """What a pool costs, for a million tokens, in whatever currency all pools are priced in."""

    input_per_million: float = Field(default=0.0, ge=0.0)
    cached_input_per_million: float = Field(default=0.0, ge=0.0)
    output_per_million: float = Field(default=0.0, ge=0.0)


class PoolSettings(Section):
    """What the gateway knows beforehand of the replicas that announce this pool (`inference.pool`)."""

    # The model to ask them for, of those that they serve; None takes each replica's own.
    model: str | None = Field(default=None, min_length=1, max_length=256)
    # Where it is, and what it is of: `large`, `small`, `cpu`, `outside`, or any word that rules go by.
    region: str = Field(default="", max_length=63)
    tier: str = Field(default="", max_length=63)
    prices: PriceSettings = PriceSettings()
    # Whether a call that has no text after the pool's own 95th percentile gets company elsewhere in its chain.
    hedge: bool = True
    # A first text that takes longer counts as a failure; 0 leaves that to the turn's deadline.
    first_text_ms_max: int = Field(default=0, ge=0)
    # Calls of one gateway at once, where the provider does not ask for fewer.
    calls_count_max: int = Field(default=1_024, ge=1)


class RuleSettings(Section):
    """Where turns go that a rule takes: every condition that is given must hold."""

    # Tokens of the window.
    tokens_min: int = Field(default=0, ge=0)
    tokens_max: int | None = Field(default=None, ge=0)
    # The turn's label `task`, or the word after the colon of the model that was asked for: `auto:code`.
    tasks: tuple[str, ...] = Field(default=(), max_length=64)
    tenants: tuple[str, ...] = Field(default=(), max_length=1_024)
    # Pools in order: the next one takes what those before it cannot. `tier:NAME` is all pools of a tier, as equals.
    pools: tuple[str, ...] = Field(min_length=1, max_length=16)


class RouteSettings(Section):
    """A model's name that stands for pools; the first rule that takes a turn says which."""

    rules: tuple[RuleSettings, ...] = Field(min_length=1, max_length=64)
    # What decides between equals: what they were observed to take, or to cost.
    prefer: Literal["latency", "cost"] = "latency"


class BreakerSettings(Section):
    """When a pool, or a replica, is left alone."""

    # Outcomes that count, how many there must be, and the share of failures at which it opens; so many failures in a
    # row are enough, too.
    window_ms: int = Field(default=10_000, ge=100)
    calls_count_min: int = Field(default=5, ge=1, le=4_096)
    failure_share_max: float = Field(default=0.5, gt=0.0, le=1.0)
    # How long it stays open: doubled each time that it opens anew, with jitter.
    open_ms_min: int = Field(default=1_000, ge=1)
    open_ms_max: int = Field(default=30_000, ge=1)


class RetrySettings(Section):
    """Calls to providers beyond one a turn: to try again, to go on elsewhere, to hedge."""

    # What each turn adds to the budget, and the most that it holds; it begins full.
    calls_per_turn: float = Field(default=0.1, ge=0.0, le=1.0)
    reserve_calls_count: int = Field(default=10, ge=0)
    # Calls of one turn, and the waits before one that goes to the same place again: doubled, with jitter.
    calls_count_max: int = Field(default=4, ge=1, le=16)
    wait_ms_min: int = Field(default=100, ge=1)
    wait_ms_max: int = Field(default=2_000, ge=1)


class HedgeSettings(Section):
    """When a second replica is asked beside one that is slow."""

    quantile: float = Field(default=0.95, gt=0.0, lt=1.0)
    # Below so many samples a pool's quantile is not known; below so long nothing is gained.
    samples_count_min: int = Field(default=20, ge=1, le=256)
    wait_ms_min: int = Field(default=50, ge=1)
    # What was observed longer ago decides nothing between equals.
    observed_ms_max: int = Field(default=60_000, ge=1)


class ResilienceSettings(Section):
    """Bounds of what failing pools may cost."""

    # Where this gateway is: pools of the same region come first among equals.
    region: str = Field(default="", max_length=63)
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()
    hedge: HedgeSettings = HedgeSettings()
    # How often the pools that were drained by hand are looked up.
    drains_poll_ms: int = Field(default=300, ge=10)
    # Pools that are remembered of which nothing is configured.
    pools_count_max: int = Field(default=256, ge=1)
