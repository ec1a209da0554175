"""What clients may send to `/v1/vector_stores`, checked as far as a type can say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.http.errors import Refusal
from gateway.http.tools.shapes import raw_null
from gateway.libraries.attachment import OVERLAP_TOKENS_DEFAULT, TOKENS_MAX_DEFAULT
from gateway.libraries.shelves import Wanted
from services.errors import InvalidField

FILES_COUNT_MAX: Final = 2_000
_ATTRIBUTES_COUNT_MAX: Final = 16
_KEY_CHARS_MAX: Final = 64
_VALUE_CHARS_MAX: Final = 512

Attributes: TypeAlias = dict[str, str | float | bool]


class Division(msgspec.Struct, forbid_unknown_fields=True):
    """How a file is cut: passages of so many tokens at most, so many of them shared with the one before."""

    max_chunk_size_tokens: Annotated[int, Meta(ge=100, le=4_096)]
    chunk_overlap_tokens: Annotated[int, Meta(ge=0, le=2_048)]


class ChunkingStrategy(msgspec.Struct, forbid_unknown_fields=True):
    """`auto` is 800 tokens of which 400 are shared; `static` says which."""

    type: Literal["auto", "static"]
    static: Division | UnsetType = UNSET


class StoreExpiry(msgspec.Struct, forbid_unknown_fields=True):
    """So many days after it was last changed or searched."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Meta(ge=1, le=365)]


class CreateVectorStore(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/vector_stores. `chunking_strategy` is for the files of `file_ids`."""

    name: str | None = None
    description: str | None = None
    file_ids: Annotated[list[str], Meta(max_length=FILES_COUNT_MAX)] | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: StoreExpiry | None = None
    metadata: dict[str, str] | None = None


class UpdateVectorStore(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/vector_stores/{vector_store_id}. What is not sent stays; null takes it away."""

    name: str | UnsetType | None = UNSET
    expires_after: StoreExpiry | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET


class CreateStoreFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/vector_stores/{vector_store_id}/files, and one of a batch's `files`."""

    file_id: str
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class UpdateStoreFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/vector_stores/{vector_store_id}/files/{file_id}: attributes in place of those that it has."""

    attributes: Attributes | None


class CreateFileBatch(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/vector_stores/{vector_store_id}/file_batches: `file_ids`, or `files` that each say their own."""

    file_ids: list[str] | None = None
    files: list[CreateStoreFile] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class RankingOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """There is one ranker, by words and meaning together."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: Annotated[float, Meta(ge=0, le=1)] | None = None


class SearchVectorStore(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/vector_stores/{vector_store_id}/search. Of several queries each passage has its best score."""

    query: str | Annotated[list[str], Meta(min_length=1, max_length=16)]
    filters: Raw = msgspec.field(default_factory=raw_null)
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None


def wanted(file: str, strategy: ChunkingStrategy | None, attributes: Attributes | None, path: str = "") -> Wanted:
    """A file that is to be in a store; InvalidField by the place of what is wrong, below `path`."""
    tokens_max, overlap = divided(strategy, path)
    return Wanted(file, checked(attributes or {}, path), tokens_max, overlap)


def divided(strategy: ChunkingStrategy | None, path: str = "") -> tuple[int, int]:
    """Tokens of a passage, and how many it shares with the one before."""
    name = f"{path}chunking_strategy"
    if strategy is None or strategy.type == "auto":
        if strategy is not None and strategy.static is not UNSET:
            raise InvalidField(f"{name}.static", "is set, expected it with the type static alone")
        return TOKENS_MAX_DEFAULT, OVERLAP_TOKENS_DEFAULT
    if isinstance(strategy.static, UnsetType):
        message = f"{name}.static: is missing; expected max_chunk_size_tokens and chunk_overlap_tokens"
        raise Refusal(400, "missing_required_parameter", f"{name}.static", message)
    division = strategy.static
    if division.chunk_overlap_tokens > division.max_chunk_size_tokens // 2:
        expected = f"expected at most half of max_chunk_size_tokens, {division.max_chunk_size_tokens // 2}"
        raise InvalidField(f"{name}.static.chunk_overlap_tokens", f"is {division.chunk_overlap_tokens}, {expected}")
    return division.max_chunk_size_tokens, division.chunk_overlap_tokens


def checked(attributes: Mapping[str, str | float | bool], path: str = "") -> Mapping[str, str | float | bool]:
    """The attributes, within OpenAI's bounds; InvalidField by the attribute's place."""
    if len(attributes) > _ATTRIBUTES_COUNT_MAX:
        raise InvalidField(
            f"{path}attributes", f"has {len(attributes)} entries, expected at most {_ATTRIBUTES_COUNT_MAX}"
        )
    for key, value in attributes.items():
        place = f"{path}attributes.{key[:_KEY_CHARS_MAX]}"
        if not 1 <= len(key) <= _KEY_CHARS_MAX:
            raise InvalidField(place, f"has a key of {len(key)} characters, expected 1 to {_KEY_CHARS_MAX}")
        if isinstance(value, str) and len(value) > _VALUE_CHARS_MAX:
            raise InvalidField(place, f"is {len(value)} characters long, expected at most {_VALUE_CHARS_MAX}")
    return attributes
