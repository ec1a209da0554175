"""Vector stores, their files and what is found in them, as OpenAI's objects."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class FileCountsObject(msgspec.Struct, frozen=True):
    """Files by state."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreExpiresAfter(msgspec.Struct, frozen=True):
    """When a store goes by itself."""

    days: int
    anchor: Literal["last_active_at"] = "last_active_at"


class VectorStore(msgspec.Struct, frozen=True, kw_only=True):
    """A library. One that has expired is gone."""

    id: str
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: FileCountsObject
    status: Literal["in_progress", "completed"]
    expires_after: StoreExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    object: Literal["vector_store"] = "vector_store"


class LastError(msgspec.Struct, frozen=True):
    """Why a file failed."""

    code: str
    message: str


class StaticDivision(msgspec.Struct, frozen=True):
    """How a file is cut into passages."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class StaticStrategy(msgspec.Struct, frozen=True):
    """How a file is cut into passages, as it is always told."""

    static: StaticDivision
    type: Literal["static"] = "static"


class VectorStoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in a store. `completed`: its text is there, with the vectors of all its passages."""

    id: str
    created_at: int
    vector_store_id: str
    status: str
    usage_bytes: int
    last_error: LastError | None
    attributes: dict[str, str | float | bool]
    chunking_strategy: StaticStrategy
    object: Literal["vector_store.file"] = "vector_store.file"


class FileBatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """Files that were attached together."""

    id: str
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCountsObject
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"


class Page(msgspec.Struct, frozen=True):
    """A page of any of them."""

    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class StoreDeleted(msgspec.Struct, frozen=True):
    """A store that is no more."""

    id: str
    deleted: bool = True
    object: Literal["vector_store.deleted"] = "vector_store.deleted"


class StoreFileDeleted(msgspec.Struct, frozen=True):
    """A file that is in its store no more."""

    id: str
    deleted: bool = True
    object: Literal["vector_store.file.deleted"] = "vector_store.file.deleted"


class TextContent(msgspec.Struct, frozen=True):
    """A piece of text."""

    text: str
    type: Literal["text"] = "text"


class SearchResult(msgspec.Struct, frozen=True):
    """A passage; `score` is to be compared within one answer only."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | float | bool]
    content: list[TextContent]


class SearchReceipt(msgspec.Struct, frozen=True):
    """What only this edge tells: whether meaning had no part in it, and up to where the library was searched."""

    words_only: bool
    revision: int


class SearchPage(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, the best first."""

    search_query: list[str]
    data: list[SearchResult]
    isthmus: SearchReceipt
    has_more: bool = False
    next_page: None = None
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"


class ContentPage(msgspec.Struct, frozen=True):
    """A file's text as the store has it, in parts that follow one another."""

    data: list[TextContent]
    has_more: bool = False
    next_page: str | None = None
    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
