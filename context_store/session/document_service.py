"""Documents as resources: shown, listed, changed, read."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeAlias

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2

from context_store.log.keys import Keys
from context_store.log.stored import Row
from context_store.log.stored_documents import StoredDocument
from context_store.session.attributes import check_attributes
from context_store.session.catalogues import Catalogues
from context_store.session.document_deletion import check_document_etag, document_rows
from context_store.session.page_tokens import write as write_page_token
from context_store.store import Store, keys_of, page_count, read_page_token
from services.errors import InvalidField, IsthmusError, NotFound

PAGE_SIZE_DEFAULT = 100

# Asks for vectors of a document, of this embedder if one is named, if it is one that has them.
Announce: TypeAlias = Callable[[Keys, StoredDocument, str], None]


class DocumentService:
    """Serves `sessions/{session}/documents/{document}`. One that is being deleted is not there."""

    def __init__(self, store: Store, catalogues: Catalogues, announce: Announce) -> None:
        self._store = store
        self._catalogues = catalogues
        self._announce = announce

    async def get(self, request: api.GetDocumentRequest) -> document_pb2.Document:
        """The document as far as it is committed."""
        stored = await self._stored(keys_of(request.key), request.document)
        # Whoever waits for its vectors asks again and again, and so repairs what a crash has lost.
        self._announce(keys_of(request.key), stored, "")
        return stored.document

    async def list(self, request: api.ListDocumentsRequest) -> api.ListDocumentsResponse:
        """A page by the time at which they were begun, then by id."""
        keys = keys_of(request.key)
        scope = f"documents/{keys.tenant}/{keys.session}/{request.state}/{request.descending}"
        after = read_page_token(request.page_token, scope)
        catalogue = await self._catalogues.read(keys)
        found = [one for one in catalogue.documents if not request.state or one.document.state == request.state]
        if request.descending:
            found.reverse()
        places = [_place(one) for one in found]
        start = sum(not _is_behind(place, after, request.descending) for place in places)
        page = found[start : start + (request.page_size or PAGE_SIZE_DEFAULT)]
        page = page[: page_count((one.document.ByteSize() for one in page), self._store.settings.page_bytes_max)]
        response = api.ListDocumentsResponse(
            documents=[one.document for one in page], document_count=len(catalogue.documents)
        )
        if start + len(page) < len(found):
            response.next_page_token = write_page_token(scope, places[start + len(page) - 1])
        return response

    async def update(self, request: api.UpdateDocumentRequest) -> document_pb2.Document:
        """Replaces the attributes. ETAG_MISMATCH if an etag is sent and is old."""
        check_attributes(request.attributes, "attributes")
        keys = keys_of(request.key)
        own = document_pb2.Document(attributes=request.attributes, etag=secrets.token_hex(8))
        for _ in range(self._store.settings.revision_retries_count_max):
            stored = await self._stored(keys, request.document)
            check_document_etag(stored, request.etag)
            reply = await self._store.log.update_document(keys, stored, own)
            if reply.outcome == "UPDATED":
                stored.document.attributes.CopyFrom(own.attributes)
                stored.document.etag = own.etag
                return stored.document
        raise IsthmusError(
            errors_pb2.ERROR_REASON_REVISION_CONFLICT, f"{stored.document.name} is changed by others all the time"
        )

    async def read(self, request: api.ReadDocumentRequest) -> AsyncIterator[api.ReadDocumentResponse]:
        """The bytes from `offset` on. NOT_FOUND also where it, or a part of it, is erased on the way."""
        keys = keys_of(request.key)
        incarnation = (await self._store.log.presence(keys))[0]
        stored = await self._stored(keys, request.document)
        if request.offset > stored.document.committed_bytes:
            raise InvalidField(
                "offset", f"is {request.offset}; expected at most {stored.document.committed_bytes}, what is committed"
            )
        offset = 0
        async for rows in document_rows(self._store, keys, stored):
            for some in _batches(rows, self._store.settings.chunk_bytes_max):
                size = sum(row.size for row in some)
                if offset + size > request.offset:
                    data = await self._bytes(keys, incarnation, some)
                    start = max(0, request.offset - offset)
                    yield api.ReadDocumentResponse(offset=offset + start, data=data[start:])
                offset += size
        if offset != stored.document.committed_bytes:
            raise _erased(stored)

    async def _bytes(self, keys: Keys, incarnation: bytes, rows: Sequence[Row]) -> bytes:
        found = await self._store.bodies.get(keys, incarnation, [row.sequence for row in rows])
        data = "".join(one.text for one in found).encode()
        if len(data) != sum(row.size for row in rows):
            raise NotFound(f"sessions/{keys.session}: a part of the document that was there just now")
        return data

    async def _stored(self, keys: Keys, document_id: str) -> StoredDocument:
        await self._store.log.version(keys)
        stored = await self._store.log.stored_document(keys, document_id)
        if stored is None or stored.is_gone:
            raise NotFound(f"sessions/{keys.session}/documents/{document_id}")
        return stored


def _batches(rows: Sequence[Row], bytes_max: int) -> Iterator[Sequence[Row]]:
    while rows:
        count = page_count((row.size for row in rows), bytes_max)
        yield rows[:count]
        rows = rows[count:]


def _place(stored: StoredDocument) -> str:
    """Where a document is in lists: places compare as texts do."""
    return f"{stored.document.create_time.ToNanoseconds():020d}:{stored.id}"


def _is_behind(place: str, after: str, descending: bool) -> bool:
    if not after:
        return True
    return place < after if descending else place > after


def _erased(stored: StoredDocument) -> NotFound:
    return NotFound(f"{stored.document.name}: a part of its text, which was erased")
