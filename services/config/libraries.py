"""Libraries and files at the gateway."""

from __future__ import annotations

from pydantic import Field

from services.config.section import Section


class LibrariesSettings(Section):
    """Files that are uploaded, and the libraries that they are copied into and searched in."""

    # One file; and how long an upload may pause before it is given up.
    file_bytes_max: int = Field(default=512 << 20, ge=1, le=1 << 30)
    upload_idle_ms_max: int = Field(default=30_000, ge=100)
    # An upload whose gateway was lost is erased after this.
    upload_kept_ms: int = Field(default=3_600_000, ge=1_000)
    # Files of a tenant that a list reads, and libraries.
    files_listed_count_max: int = Field(default=10_000, ge=1)
    libraries_listed_count_max: int = Field(default=10_000, ge=1)
    # Files of one library, and of one batch; one more is QUOTA_EXCEEDED.
    library_files_count_max: int = Field(default=10_000, ge=1, le=1_000_000)
    batch_files_count_max: int = Field(default=2_000, ge=1, le=10_000)
    batches_count_max: int = Field(default=1_000, ge=1)
    # Files that this gateway copies into libraries at once (0: it leaves that to others).
    copies_concurrent_max: int = Field(default=8, ge=0, le=256)
    # Attempts of a copy that fail without any progress, and the waits in between: doubled, half of it by chance.
    attempts_count_max: int = Field(default=8, ge=1, le=1_000)
    retry_ms_min: int = Field(default=500, ge=1)
    retry_ms_max: int = Field(default=30_000, ge=1)
    # How often it is looked whether a document has its vectors; and when a copy without them is told to have failed.
    embed_poll_ms: int = Field(default=500, ge=10)
    embed_ms_max: int = Field(default=3_600_000, ge=1_000)
    # How often a free place is noticed, and how often copies that wait are looked at.
    poll_ms: int = Field(default=50, ge=5, le=1_000)
    schedule_ms: int = Field(default=200, ge=5)
    # When the copies of a gateway that has died go to another, and when one that lost Valkey comes back.
    redelivery_ms: int = Field(default=10_000, ge=500)
    reconnect_ms: int = Field(default=500, ge=10)
    # How long a search waits for its query's vector before it goes by words alone.
    query_embed_ms_max: int = Field(default=2_000, ge=1)
    # How long what is known of a library's files outlives the library itself, where that expires.
    records_kept_ms: int = Field(default=86_400_000, ge=1_000)
