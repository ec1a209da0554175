"""Searches of a session's documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import search_pb2
from numpy.typing import NDArray

from context_store.log.keys import Keys
from context_store.log.stored_documents import StoredDocument
from context_store.retrieval.attribute_filter import predicate
from context_store.retrieval.indexes import Indexes, key_of
from context_store.retrieval.library_index import Found, Query
from context_store.session.catalogues import Catalogues
from context_store.session.document_service import Announce
from context_store.store import Store, keys_of
from services.errors import InvalidField
from services.rpc import redirects

LIMIT_DEFAULT: Final = 10
_FLOAT_BYTES: Final = 4


class SearchService:
    """Serves SearchDocuments."""

    def __init__(self, store: Store, catalogues: Catalogues, indexes: Indexes, announce: Announce) -> None:
        self._store = store
        self._catalogues = catalogues
        self._indexes = indexes
        self._announce = announce

    async def search(self, request: api.SearchDocumentsRequest) -> api.SearchDocumentsResponse:
        """The passages that suit the query best, of complete documents that the filter takes."""
        keys, query = keys_of(request.key), _query(request)
        takes = predicate(request.filter) if request.HasField("filter") else None
        # Each shard that is asked has an index to build.
        self._store.ownership.check(keys, is_redirected=redirects.is_redirected(), is_open=False)
        catalogue = await self._catalogues.read(keys)
        state = await self._store.log.session_state(keys)
        documents = [one for one in catalogue.documents if one.is_complete]
        for one in documents:
            self._announce(keys, one, query.embedder)
        wanted = [one for one in documents if takes is None or takes(one.document.attributes)]
        answer, revision = await self._indexes.search(
            keys, catalogue.version, query, wanted, request.limit or LIMIT_DEFAULT, request.score_min
        )
        response = api.SearchDocumentsResponse(words_only=answer.words_only, revision=revision)
        by_key = {key_of(one): one for one in wanted}
        for found in answer.found:
            passage = await self._passage(keys, state.incarnation, found, by_key)
            if passage:
                response.passages.append(passage)
        return response

    async def _passage(
        self, keys: Keys, incarnation: bytes, found: Found, by_key: Mapping[str, StoredDocument]
    ) -> search_pb2.FoundPassage | None:
        """A found passage with its text; None for one that was erased since."""
        stored = by_key[found.document]
        sequences = list(range(found.first_sequence, found.last_sequence + 1))
        fragments = await self._store.bodies.get(keys, incarnation, sequences, is_window=True)
        whole = "".join(one.text for one in fragments if one.document == stored.document.name).encode()
        data = whole[found.lead_bytes : found.lead_bytes + found.end_byte - found.start_byte]
        if len(data) < found.end_byte - found.start_byte:
            return None
        return search_pb2.FoundPassage(
            document=stored.id,
            display_name=stored.document.display_name,
            attributes=stored.document.attributes,
            first_sequence=found.first_sequence,
            last_sequence=found.last_sequence,
            start_byte=found.start_byte,
            text=data.decode(),
            score=found.score,
        )


def _query(request: api.SearchDocumentsRequest) -> Query:
    if not request.vector:
        return Query(request.query)
    if not request.embedder:
        raise InvalidField("embedder", "is empty; expected the model that made the vector")
    return Query(request.query, _unit(request.vector), request.embedder)


def _unit(data: bytes) -> NDArray[np.float32]:
    if len(data) % _FLOAT_BYTES:
        raise InvalidField("vector", f"has {len(data)} bytes; expected a multiple of {_FLOAT_BYTES}, float32")
    vector = np.frombuffer(data, "<f4")
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not math.isfinite(length) or length <= 0:
        raise InvalidField("vector", f"has length {length}; expected a finite one above 0")
    unit: NDArray[np.float32] = (vector / np.float32(length)).astype(np.float32)
    return unit
