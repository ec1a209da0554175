"""The gateway."""

from __future__ import annotations

from pydantic import Field, model_validator

from services.config.access import AccessSettings
from services.config.caches import CacheSettings
from services.config.jobs import JobSettings, WebhookSettings
from services.config.libraries import LibrariesSettings
from services.config.limits import LimitsSettings
from services.config.pools import POOL_DEFAULT, TIER, PoolSettings, ResilienceSettings, RouteSettings
from services.config.section import Section
from services.config.validation import ValidationSettings


class GatewaySettings(Section):
    """The gateway's two edges."""

    # Who may call it.
    access: AccessSettings = AccessSettings()
    # Processes that serve one gateway's two ports together, on one machine.
    processes_count: int = Field(default=1, ge=1, le=64)
    # What they may use up, and the line before turns.
    limits: LimitsSettings = LimitsSettings()
    # Pools by name, the routes to them by the model that is asked for, and what their failures may cost.
    pools: dict[str, PoolSettings] = Field(default_factory=dict, max_length=256)
    routes: dict[str, RouteSettings] = Field(default_factory=dict, max_length=256)
    resilience: ResilienceSettings = ResilienceSettings()
    # Turns in the background, and the events of their ends.
    jobs: JobSettings = JobSettings()
    webhooks: WebhookSettings = WebhookSettings()
    # Files, and the libraries that they are searched in.
    libraries: LibrariesSettings = LibrariesSettings()
    # Answers that are kept to be given again.
    caches: CacheSettings = CacheSettings()
    # What replies are checked for.
    validation: ValidationSettings = ValidationSettings()
    # Turns under way at once; one more waits in line.
    turns_count_max: int = Field(default=512, ge=1)
    # Readers of turns that are there, driven here or not; one more is OVERLOADED.
    readers_count_max: int = Field(default=1_024, ge=1)
    # The longest a turn may take, whatever its caller's deadline.
    turn_deadline_ms: int = Field(default=600_000, ge=1)
    # How long a turn stays its driver's without a renewal: when a gateway dies, its turns wait this long for another.
    lease_ms: int = Field(default=1_500, ge=300, le=60_000)
    # Windows planned anew for one turn, because the replica's exact count was over the model's bound.
    replans_count_max: int = Field(default=3, ge=0)
    # Output beyond this ends the reply as a length limit does.
    reply_bytes_max: int = Field(default=4_000_000, ge=1, le=4 << 20)
    # A streamed reply reaches its readers in pieces, each written to the turn's output first: at least so long after
    # the one before, and so large at most. Where the caller wants the whole reply, its output is written this often.
    output_piece_ms_min: int = Field(default=10, ge=0)
    output_piece_bytes_max: int = Field(default=65_536, ge=1, le=1 << 20)
    output_unread_ms: int = Field(default=500, ge=0)
    # Replicas that go on, one after the other, with a reply whose replica was lost in the middle of it.
    continuations_count_max: int = Field(default=3, ge=0)
    # A replica with fewer requests than this keeps its sessions, whatever the others have to do.
    spill_requests_count_min: int = Field(default=4, ge=0)
    # Sessions of which the replica is remembered that has served them last.
    placements_count_max: int = Field(default=65_536, ge=0)
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
    # Telling a member that a session is erased, and members that are told at once.
    forget_ms_max: int = Field(default=1_000, ge=1)
    forget_concurrent_max: int = Field(default=16, ge=1)
    # HTTP: requests open at once; one more is OVERLOADED.
    http_requests_count_max: int = Field(default=1_024, ge=1)
    # A request's body: 2 MiB of text, as JSON escapes it at worst; and how long it may take to arrive.
    http_body_bytes_max: int = Field(default=16 << 20, ge=1 << 10)
    http_body_ms_max: int = Field(default=30_000, ge=1)
    # A page of items ends once its text is past this.
    http_page_bytes_max: int = Field(default=4 << 20, ge=1)
    # Chat completions: how long a conversation is found again by its history, and how many of the history's answers,
    # from its end, are looked for: one that the client changed hides no earlier one.
    chat_bookmark_ms: int = Field(default=86_400_000, ge=1_000)
    chat_lookups_count_max: int = Field(default=4, ge=1, le=64)
    # An idle connection is closed after this, in whole seconds.
    http_keepalive_ms: int = Field(default=5_000, ge=1_000)

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> GatewaySettings:
        # Replicas that announce none are of the default pool, whether anything is set of it or not.
        known = {POOL_DEFAULT, *self.pools, *(f"{TIER}{pool.tier}" for pool in self.pools.values() if pool.tier)}
        for name, route in self.routes.items():
            for pool in (pool for rule in route.rules for pool in rule.pools):
                if pool not in known:
                    raise ValueError(f"routes.{name}: {pool!r} is no pool; expected one of {', '.join(sorted(known))}")
        return self
