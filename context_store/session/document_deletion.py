"""Erasing one document of a session: hidden first, its entry last, so that what breaks off can be gone on with."""

from __future__ import annotations

from collections.abc import AsyncIterator

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.keys import Keys
from context_store.log.stored import Row
from context_store.log.stored_documents import StoredDocument
from context_store.session.erasing import Eraser, check_free
from context_store.store import Store, keys_of
from services.errors import IsthmusError, NotFound


class DocumentDeletions:
    """The one way in which documents go."""

    def __init__(self, store: Store, eraser: Eraser) -> None:
        self._store = store
        self._eraser = eraser

    async def delete(self, request: api.DeleteDocumentRequest) -> None:
        """Erases a document, or goes on with what broke off. NOT_FOUND, ETAG_MISMATCH, TURN_IN_PROGRESS."""
        keys = keys_of(request.key)
        incarnation, stored = await self._read(keys, request.document)
        if stored is None:
            raise NotFound(f"sessions/{keys.session}/documents/{request.document}")
        if not stored.is_gone:
            check_document_etag(stored, request.etag)
            stored = await self._hide(keys, stored)
        await self._finish(keys, incarnation, stored)

    async def resume(self, keys: Keys, document_id: str) -> None:
        """Goes on with a deletion that broke off, if it is not at its end by now."""
        incarnation, stored = await self._read(keys, document_id)
        if stored and stored.is_gone:
            await self._finish(keys, incarnation, stored)

    async def _read(self, keys: Keys, document_id: str) -> tuple[bytes, StoredDocument | None]:
        """The document, and first of which session it is: what is erased must be that one's."""
        await self._store.log.version(keys)
        incarnation = (await self._store.log.presence(keys))[0]
        return incarnation, await self._store.log.stored_document(keys, document_id)

    async def _finish(self, keys: Keys, incarnation: bytes, stored: StoredDocument) -> None:
        """Erases a hidden document's text and its entry."""
        async for rows in document_rows(self._store, keys, stored):
            if rows:
                await self._eraser.erase(keys, incarnation, [row.sequence for row in rows])
        # A STALE one was finished by another caller.
        await self._store.log.drop_document(keys, stored)

    async def _hide(self, keys: Keys, stored: StoredDocument) -> StoredDocument:
        async def change(slot: Slot, hot: HotSession) -> StoredDocument:
            # Its stream may have gone on since it was read.
            now = await self._store.log.stored_document(keys, stored.id)
            if now is None:
                raise NotFound(f"sessions/{keys.session}/documents/{stored.id}")
            if not now.is_gone:
                check_free(keys, await self._store.log.hide_document(keys, now))
            return now

        return await self._store.write(keys, change)


async def document_rows(store: Store, keys: Keys, stored: StoredDocument) -> AsyncIterator[list[Row]]:
    """The log's entries of a document without their texts, a page at a time; a page may be empty."""
    count = store.settings.log_page_count_max
    name = f"/documents/{stored.id}"
    following, last = stored.document.first_sequence, stored.document.last_sequence
    while following and following <= last:
        rows = await store.log.rows(keys, following, last, count, with_bodies=False)
        yield [row for row in rows if fragment_pb2.Fragment.FromString(row.header).document.endswith(name)]
        following = rows[-1].sequence + 1 if len(rows) == count else 0


def check_document_etag(stored: StoredDocument, etag: str) -> None:
    """ETAG_MISMATCH if an etag is sent and is old."""
    if etag and etag != stored.document.etag:
        raise IsthmusError(
            errors_pb2.ERROR_REASON_ETAG_MISMATCH,
            f"{stored.document.name} was changed since; expected the etag that it has now, read it again",
        )
