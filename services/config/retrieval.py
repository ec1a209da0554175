"""Searches of documents: what their indexes may take, and how they are kept."""

from __future__ import annotations

from pydantic import Field

from services.config.section import Section


class RetrievalSettings(Section):
    """What a shard holds of documents to find passages in them."""

    # Documents whose entries are kept in memory, of all sessions that were listed or searched last.
    documents_cached_count_max: int = Field(default=50_000, ge=1)
