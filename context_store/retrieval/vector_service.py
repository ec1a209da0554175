"""Vectors of passages as the compressor commits them, by compare-and-set against what is there."""

from __future__ import annotations

from typing import Final

import numpy as np
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2
from msgspec.structs import replace

from context_store.log.keys import Keys
from context_store.log.stored_documents import StoredDocument, VectorState
from context_store.session.document_deletion import document_rows
from context_store.store import Store, keys_of
from services.errors import InvalidField, IsthmusError, NotFound
from services.passages import PassageSource, cuts_of

_HALF_BYTES: Final = 2


class VectorService:
    """Serves CommitVectors."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def commit(self, request: api.CommitVectorsRequest) -> api.CommitVectorsResponse:
        """Adds the vectors that the document lacks next. SUMMARY_SOURCE_CHANGED if they are of another text."""
        keys = keys_of(request.key)
        count = _count(request)
        self._store.tiers.memory.admit("vectors")
        for _ in range(self._store.settings.revision_retries_count_max):
            stored = await self._stored(keys, request.document)
            state = await self._begun(keys, stored, request)
            if request.HasField("error"):
                state = replace(state, error_code=request.error.code, error_message=request.error.message)
            elif request.first_passage != state.embedded_count or (stored.vectors and state.is_final and not count):
                # They are there already, or the caller is ahead: he is told where to go on.
                await self._store.log.confirm(keys)
                return api.CommitVectorsResponse(embedded_count=state.embedded_count)
            else:
                state = _with_batch(state, request.first_passage, count)
            reply = await self._store.log.commit_vectors(keys, stored, state, request.vectors)
            if reply.outcome == "COMMITTED":
                return api.CommitVectorsResponse(embedded_count=state.embedded_count)
        raise IsthmusError(
            errors_pb2.ERROR_REASON_REVISION_CONFLICT, f"{stored.document.name} is changed by others all the time"
        )

    async def _stored(self, keys: Keys, document_id: str) -> StoredDocument:
        await self._store.log.version(keys)
        stored = await self._store.log.stored_document(keys, document_id)
        if stored is None or stored.is_gone or stored.is_inherited:
            raise NotFound(f"sessions/{keys.session}/documents/{document_id}")
        return stored

    async def _begun(self, keys: Keys, stored: StoredDocument, request: api.CommitVectorsRequest) -> VectorState:
        """How far the document has vectors of this embedder: not at all, if those that it has are of another."""
        begun = VectorState(request.embedder, request.dimensions, request.source_digest, request.passage_count, 0)
        state = stored.state
        if state and replace(state, embedded_count=0, batches=(), error_code="", error_message="") == begun:
            return replace(state, error_code="", error_message="")
        if not stored.is_complete or await self._source(keys, stored) != request.source_digest:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_SUMMARY_SOURCE_CHANGED,
                f"{stored.document.name} is not what the vectors were made from; expected the digest of its fragments"
                " and of how it is cut",
            )
        return begun

    async def _source(self, keys: Keys, stored: StoredDocument) -> bytes:
        source = PassageSource(*cuts_of(stored.document))
        async for rows in document_rows(self._store, keys, stored):
            for row in rows:
                source.add(fragment_pb2.Fragment.FromString(row.header).digest)
        return source.digest()


def _count(request: api.CommitVectorsRequest) -> int:
    """How many vectors came. INVALID_FIELD for what cannot be."""
    width = _HALF_BYTES * request.dimensions
    if len(request.vectors) % width:
        raise InvalidField("vectors", f"has {len(request.vectors)} bytes; expected a multiple of {width}")
    count = len(request.vectors) // width
    if count and not np.isfinite(np.frombuffer(request.vectors, "<f2")).all():
        raise InvalidField("vectors", "has values that are not finite; expected vectors of unit length")
    if request.first_passage + count > request.passage_count:
        raise InvalidField(
            "first_passage",
            f"is {request.first_passage}, with {count} vectors; expected {request.passage_count} in all",
        )
    if not count and request.passage_count and not request.HasField("error"):
        raise InvalidField("vectors", "is empty; expected vectors, or an error")
    return count


def _with_batch(state: VectorState, first: int, count: int) -> VectorState:
    if not count:
        return state
    return replace(state, embedded_count=state.embedded_count + count, batches=(*state.batches, first))
