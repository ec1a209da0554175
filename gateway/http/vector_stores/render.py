"""From libraries and their files to OpenAI's objects, and ids between the two. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from isthmus.context.v1 import search_pb2

from gateway.http.errors import missing
from gateway.http.files.objects import file_id
from gateway.http.vector_stores.objects import (
    FileBatchObject,
    FileCountsObject,
    LastError,
    Page,
    SearchResult,
    StaticDivision,
    StaticStrategy,
    StoreExpiresAfter,
    TextContent,
    VectorStore,
    VectorStoreFile,
)
from gateway.libraries.attachment import Attachment, Batch
from gateway.libraries.book import FileCounts
from gateway.libraries.library_record import LibraryState

_DAY_S: Final = 86_400
_STORE: Final = re.compile(r"vs_([a-z0-9][a-z0-9-]{0,62})")
_BATCH: Final = re.compile(r"vsfb_([a-z0-9][a-z0-9-]{0,62})")


def store_id(library: str) -> str:
    """`vs_<library>`."""
    return f"vs_{library}"


def parse_store(text: str, param: str = "vector_store_id") -> str:
    """The library in `vs_<library>`. What is none names no store: it answers as one that does not exist."""
    match = _STORE.fullmatch(text)
    if match is None:
        raise missing(param, text[:100])
    return match[1]


def batch_id(batch: str) -> str:
    """`vsfb_<batch>`."""
    return f"vsfb_{batch}"


def parse_batch(text: str) -> str:
    """The batch in `vsfb_<batch>`; answers otherwise as one that does not exist."""
    match = _BATCH.fullmatch(text)
    if match is None:
        raise missing("batch_id", text[:100])
    return match[1]


def vector_store(state: LibraryState, counts: FileCounts) -> VectorStore:
    """The library as OpenAI's vector store."""
    library = state.library
    days = -(-library.ttl.seconds // _DAY_S)
    return VectorStore(
        id=store_id(library.name.removeprefix("libraries/")),
        created_at=library.create_time.seconds,
        name=library.display_name,
        description=library.description or None,
        usage_bytes=counts.text_bytes,
        file_counts=_counts(counts),
        status="in_progress" if counts.in_progress else "completed",
        expires_after=StoreExpiresAfter(days) if state.expire_s else None,
        expires_at=state.expire_s or None,
        last_active_at=state.active_s,
        metadata=dict(library.labels),
    )


def store_file(store: str, record: Attachment) -> VectorStoreFile:
    """A file of a library as OpenAI's."""
    return VectorStoreFile(
        id=file_id(record.file),
        created_at=record.create_ms // 1000,
        vector_store_id=store,
        status=record.state.value,
        usage_bytes=record.text_bytes,
        last_error=LastError(record.error, record.message) if record.error else None,
        attributes=record.attributes,
        chunking_strategy=StaticStrategy(StaticDivision(record.tokens_max, record.overlap_tokens)),
    )


def file_batch(store: str, batch: Batch, counts: FileCounts) -> FileBatchObject:
    """A batch as OpenAI's: `failed` where nothing of it came through."""
    is_failed = counts.total > 0 and counts.failed == counts.total
    return FileBatchObject(
        id=batch_id(batch.id),
        created_at=batch.create_ms // 1000,
        vector_store_id=store,
        status="cancelled"
        if batch.is_cancelled
        else ("in_progress" if counts.in_progress else ("failed" if is_failed else "completed")),
        file_counts=_counts(counts),
    )


def page(items: Sequence[Any], limit: int) -> Page:
    """At most `limit` of the items; one more than that says that there are more."""
    shown = list(items[:limit])
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return Page(shown, first, last, len(items) > limit)


def result(found: search_pb2.FoundPassage) -> SearchResult:
    """A passage as OpenAI's result."""
    return SearchResult(
        file_id=file_id(found.document),
        filename=found.display_name,
        score=found.score,
        attributes=dict(found.attributes.items()),  # type: ignore[arg-type]
        content=[TextContent(found.text)],
    )


def _counts(counts: FileCounts) -> FileCountsObject:
    return FileCountsObject(counts.in_progress, counts.completed, counts.failed, counts.cancelled, counts.total)
