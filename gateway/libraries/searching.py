"""Searches of libraries: the query's vector beside its words, or its words alone where there is no vector in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from isthmus.context.v1 import context_service_pb2 as store
from isthmus.context.v1 import search_pb2

from gateway.backend import Backend
from gateway.libraries.book import Book, Place
from gateway.libraries.documents import Documents
from gateway.libraries.library_record import library_of, touched
from gateway.libraries.places import library_session
from gateway.limits.admission import Admission
from services.config import LibrariesSettings
from services.errors import InvalidField, IsthmusError, NotFound
from services.limits.money import Tokens

QUERY_BYTES_MAX: Final = 16_384
LIMIT_MAX: Final = 50
_log: Final = structlog.get_logger("libraries")


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for, and among what."""

    text: str
    limit: int = 0
    filter: search_pb2.AttributeFilter | None = None
    score_min: float = 0.0
    words_only: bool = False


class Searching:
    """Searches libraries. Every error is an IsthmusError."""

    def __init__(
        self,
        backend: Backend,
        documents: Documents,
        book: Book,
        admission: Admission,
        settings: LibrariesSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._documents = documents
        self._book = book
        self._admission = admission
        self._settings = settings
        self._clock = clock

    async def search(self, place: Place, query: Query) -> store.SearchDocumentsResponse:
        """The passages that suit the query best. `words_only` says whether meaning had a part in it."""
        size = len(query.text.encode())
        if not 1 <= size <= QUERY_BYTES_MAX:
            raise InvalidField("query", f"is {size} bytes of UTF-8, expected 1 to {QUERY_BYTES_MAX}")
        await self._touch(place)
        vector, embedder = (b"", "") if query.words_only else await self._vector(place.tenant, query.text, size)
        return await self._documents.search(
            place.tenant,
            library_session(place.library),
            query.text,
            vector=vector,
            embedder=embedder,
            limit=query.limit,
            attributes=query.filter,
            score_min=query.score_min,
        )

    async def _vector(self, tenant: str, text: str, size: int) -> tuple[bytes, str]:
        """The query's vector and the model that made it; neither where it cannot be had in time."""
        # What limits refuse is refused: a search by words alone would hide it.
        async with self._admission.embedding(tenant, "", "", size) as entry:
            try:
                async with asyncio.timeout(self._settings.query_embed_ms_max / 1000):
                    found = await self._backend.embed([text], "")
            except (TimeoutError, IsthmusError) as error:
                _log.info("searched by words alone", tenant=tenant, problem=str(error) or "the vector took too long")
                return b"", ""
            entry.settle(Tokens(found.tokens))
            return found.vectors[0], found.model

    async def _touch(self, place: Place) -> None:
        """Puts the library's end off, where it has one. NOT_FOUND for one that is over, or is not there."""
        now_s = self._clock()
        session_id = library_session(place.library)
        session = await self._backend.get_session(place.tenant, session_id)
        if library_of(session, now_s) is None:
            raise NotFound(f"libraries/{place.library}")
        after = touched(session, now_s)
        if after is None:
            return
        try:
            changed = await self._backend.update_session(place.tenant, session_id, after, ("labels", "ttl"))
            state = library_of(changed, now_s)
            if state is not None and state.expire_s:
                kept_ms = (state.expire_s - int(now_s)) * 1000 + self._settings.records_kept_ms
                await self._book.keep(place, kept_ms)
        except IsthmusError as error:
            # Another search has just done so, or the next one will.
            _log.info("library not touched", library=place.library, problem=str(error))
