"""Searches of documents: what their indexes may take, and how they are kept."""

from __future__ import annotations

from pydantic import Field

from services.config.section import Section


class RetrievalSettings(Section):
    """What a shard holds of documents to find passages in them."""

    # Documents whose entries are kept in memory, of all sessions that were listed or searched last.
    documents_cached_count_max: int = Field(default=50_000, ge=1)
    # Indexes in memory, least recently used out first. An index that does not fit alone is refused.
    index_bytes_max: int = Field(default=512 << 20, ge=1 << 16)
    # Indexes that are brought up to their logs at once, and text that is read and cut for one in one step.
    builds_count_max: int = Field(default=2, ge=1, le=64)
    build_batch_bytes_max: int = Field(default=1 << 20, ge=65_536, le=64 << 20)
    # How long a search waits for its index. Then it goes by what is there already, or is OVERLOADED if nothing is.
    build_wait_ms_max: int = Field(default=10_000, ge=10)
    # Documents that wait to be announced to the compressor, and how soon one that lacks vectors is announced again.
    announced_count_max: int = Field(default=4_096, ge=1)
    announce_again_ms: int = Field(default=5_000, ge=100)
