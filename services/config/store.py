"""The context store, its tiers and its quotas."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from services.config.retrieval import RetrievalSettings
from services.config.section import Section


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
    # What sessions and recent texts may take in memory, least recently used out first; and the share of the sessions'
    # bytes that is left to those that were not used again yet, so that a scan flushes no others.
    hot_sessions_bytes_max: int = Field(default=256 << 20, ge=1)
    hot_sessions_newcomer_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    # Copies that are looked at in one go when members have come or gone.
    moving_batch_count_max: int = Field(default=256, ge=1)
    bodies_bytes_max: int = Field(default=64 << 20, ge=0)
    # Text that travels in a manifest, in one message of a stream, and in one page of a list.
    manifest_bytes_max: int = Field(default=256 << 10, ge=0)
    chunk_bytes_max: int = Field(default=384 << 10, ge=65_536, le=768 << 10)
    page_bytes_max: int = Field(default=1 << 20, ge=65_536, le=2 << 20)
    # Entries of the log that one read of Valkey returns.
    log_page_count_max: int = Field(default=1_000, ge=1, le=10_000)
    # Attempts of a write that finds the log moved on by another shard.
    revision_retries_count_max: int = Field(default=8, ge=1)
    # Sessions that one page of a filtered list looks at.
    list_scan_count_max: int = Field(default=2_000, ge=100)
    # An import without a record for this long is erased; the highest number of a fragment or a turn that it may have.
    import_idle_ms_max: int = Field(default=60_000, ge=100)
    import_sequence_max: int = Field(default=1 << 22, ge=1, le=1 << 30)
    # Ancestors whose past one fork may share.
    fork_links_count_max: int = Field(default=64, ge=1, le=1_024)
    lease_ms_min: int = Field(default=50, ge=1)
    lease_ms_max: int = Field(default=60_000, ge=1)
    # Of turns that wait in a queue, or whose worker may be lost: nobody else voids them for so long.
    queued_lease_ms_max: int = Field(default=7 * 86_400_000, ge=1)
    # How often WaitTurn looks, and how long it waits at most.
    wait_poll_ms: int = Field(default=50, ge=5)
    wait_ms_max: int = Field(default=60_000, ge=1)
    # Segments that wait to be announced to the compressor; what is beyond is announced later.
    events_pending_count_max: int = Field(default=4_096, ge=1)
    events_retry_ms_min: int = Field(default=100, ge=1)
    events_retry_ms_max: int = Field(default=5_000, ge=1)
    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings)


class TieringSettings(Section):
    """Where idle sessions go, when they do, and how Valkey's memory is kept within its bound."""

    # Whether sessions and large replies may become objects at all: not where shards share no place for them.
    enabled: bool = True
    # Objects: "" is a folder in `mesh.home`; else `file:///path`, `s3://bucket/path`, `gs://bucket/path` or
    # `az://account/container/path`, with the credentials that the environment has for it. Shards share it.
    url: str = ""
    # A session without a write for this long, and without an open turn, becomes an object (0: none does).
    idle_ms: int = Field(default=3_600_000, ge=0)
    # Text and bodies read from Valkey at once for an object, or written back.
    page_bytes_max: int = Field(default=512 << 10, ge=4_096, le=4 << 20)
    # The parts of a large object's upload (S3 takes none below 5 MiB), and the pieces in which one is read.
    part_bytes_max: int = Field(default=5 << 20, ge=5 << 20, le=64 << 20)
    chunk_bytes_max: int = Field(default=512 << 10, ge=65_536, le=1 << 20)
    # A freeze takes no longer than this, or it comes to nothing. An object that nobody names goes after twice that.
    freeze_ms_max: int = Field(default=60_000, ge=100)
    # Sessions that a shard brings back at once, and how long one more waits before it is OVERLOADED.
    thaws_count_max: int = Field(default=8, ge=1)
    thaw_wait_ms_max: int = Field(default=5_000, ge=1)
    # The janitor: how often it looks, sessions it freezes or expires at once, sessions it looks at in one round, and
    # the sessions in one page of an index.
    janitor_interval_ms: int = Field(default=5_000, ge=10)
    janitor_concurrent_max: int = Field(default=8, ge=1, le=256)
    janitor_sessions_count_max: int = Field(default=10_000, ge=1)
    janitor_page_count_max: int = Field(default=100, ge=1, le=10_000)
    # Parts of the indexes by last use and by due time, each in a slot of its own. The same in every process, for good.
    index_buckets_count: int = Field(default=16, ge=1, le=256)
    # The texts of a reply from so many bytes on go to one object at once (0: none do); one that takes longer stays in
    # Valkey until its session leaves it.
    spill_bytes_min: int = Field(default=256 << 10, ge=0)
    spill_ms_max: int = Field(default=3_000, ge=1)
    # How often a shard notes which sessions it has written, and how many wait for that.
    touch_interval_ms: int = Field(default=1_000, ge=10)
    touches_count_max: int = Field(default=65_536, ge=1)
    # Valkey's memory, a primary, where it has no `maxmemory` of its own (0: no bound).
    valkey_bytes_max: int = Field(default=0, ge=0)
    # Shares of that bound: above `high` sessions idle for `idle_ms_min` are frozen until `low`; above `refuse` no new
    # session, document or import is taken in.
    valkey_high_ratio: float = Field(default=0.75, gt=0.0, le=1.0)
    valkey_low_ratio: float = Field(default=0.65, gt=0.0, le=1.0)
    valkey_refuse_ratio: float = Field(default=0.9, gt=0.0, le=1.0)
    idle_ms_min: int = Field(default=5_000, ge=0)

    @field_validator("valkey_low_ratio", "valkey_refuse_ratio")
    @classmethod
    def _is_around_high(cls, value: float, info: ValidationInfo) -> float:
        high = info.data.get("valkey_high_ratio", value)
        if (value > high) if info.field_name == "valkey_low_ratio" else (value < high):
            raise ValueError("expected valkey_low_ratio <= valkey_high_ratio <= valkey_refuse_ratio")
        return value


class QuotaLimits(Section):
    """What a session and a tenant may hold; 0 is no bound. A fork counts its own part, a reply may pass a bound."""

    session_bytes_max: int = Field(default=0, ge=0)
    session_tokens_max: int = Field(default=0, ge=0)
    tenant_sessions_max: int = Field(default=0, ge=0)
    # Not among those sessions: libraries, files, and the chat edge's bookmarks, which expire by themselves.
    tenant_libraries_max: int = Field(default=0, ge=0)
    tenant_files_max: int = Field(default=0, ge=0)
    tenant_bookmarks_max: int = Field(default=0, ge=0)
    tenant_bytes_max: int = Field(default=0, ge=0)
    tenant_tokens_max: int = Field(default=0, ge=0)


class QuotaSettings(QuotaLimits):
    """Quotas: the bounds of every tenant, but for those that have bounds of their own."""

    tenants: dict[str, QuotaLimits] = Field(default_factory=dict)
    # How often a shard sums what tenants hold; sessions that wait for that, and tenants whose sums it remembers.
    usage_interval_ms: int = Field(default=1_000, ge=10)
    usage_pending_count_max: int = Field(default=65_536, ge=1)
