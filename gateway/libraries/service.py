"""LibraryService of session.v1: requests to the libraries, names to ids."""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf import empty_pb2
from isthmus.context.v1 import search_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import (
    deletion_pb2,
    document_pb2,
    library_pb2,
    library_service_pb2,
    library_service_pb2_grpc,
)

from gateway.backend import Backend
from gateway.libraries.book import Place
from gateway.libraries.libraries import Libraries
from gateway.libraries.places import library_session
from gateway.libraries.searching import Query
from gateway.names import library_document_name, library_name, parse_library, parse_library_document
from gateway.tenancy import tenant
from services.errors import InvalidField, IsthmusError, NotFound

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class LibraryServicer(library_service_pb2_grpc.LibraryServiceServicer):
    """Thin: the server's interceptor has let in and checked each request, and turns IsthmusErrors into their status."""

    def __init__(self, libraries: Libraries, backend: Backend) -> None:
        self._libraries = libraries
        self._backend = backend

    async def CreateLibrary(
        self, request: library_service_pb2.CreateLibraryRequest, context: Context
    ) -> library_pb2.Library:
        made = await self._libraries.create(tenant(), request.library_id, request.library, request.request_id)
        return made.library

    async def GetLibrary(self, request: library_service_pb2.GetLibraryRequest, context: Context) -> library_pb2.Library:
        library = parse_library(request.name)
        found = (await self._libraries.get(tenant(), library)).library
        page = await self._libraries.documents.list(tenant(), library_session(library), page_size=1)
        found.document_count = page.document_count
        return found

    async def ListLibraries(
        self, request: library_service_pb2.ListLibrariesRequest, context: Context
    ) -> library_service_pb2.ListLibrariesResponse:
        page = await self._libraries.page(tenant(), request.page_size, request.page_token)
        return library_service_pb2.ListLibrariesResponse(
            libraries=[state.library for state in page.libraries], next_page_token=page.next_page_token
        )

    async def UpdateLibrary(
        self, request: library_service_pb2.UpdateLibraryRequest, context: Context
    ) -> library_pb2.Library:
        library = parse_library(request.library.name, "library.name")
        paths = request.update_mask.paths
        return (await self._libraries.update(tenant(), library, request.library, paths)).library

    async def DeleteLibrary(
        self, request: library_service_pb2.DeleteLibraryRequest, context: Context
    ) -> deletion_pb2.DeletionReceipt:
        return await self._libraries.delete(tenant(), parse_library(request.name), etag=request.etag)

    async def IngestDocument(
        self, requests: AsyncIterator[library_service_pb2.LibraryServiceIngestDocumentRequest], context: Context
    ) -> document_pb2.Document:
        first = await anext(requests, None)
        if first is None:
            raise InvalidField("part", "the stream ended before its first message, expected a header")
        library = parse_library(first.library, "library")
        state = await self._libraries.get(tenant(), library)
        with _of(library):
            document = await self._backend.write_document(tenant(), library_session(library), _parts(first, requests))
            await self._libraries.shelves.uploaded(Place(tenant(), library), document, self._libraries.kept_ms(state))
        return _named(library, document)

    async def GetDocument(
        self, request: library_service_pb2.LibraryServiceGetDocumentRequest, context: Context
    ) -> document_pb2.Document:
        library, document = parse_library_document(request.name)
        with _of(library, document):
            found = await self._backend.get_document(tenant(), library_session(library), document)
        return _named(library, found)

    async def ListDocuments(
        self, request: library_service_pb2.ListDocumentsRequest, context: Context
    ) -> library_service_pb2.ListDocumentsResponse:
        library = parse_library(request.parent, "parent")
        with _of(library):
            page = await self._libraries.documents.list(
                tenant(),
                library_session(library),
                page_size=request.page_size,
                page_token=request.page_token,
                descending=request.descending,
                state=request.state,
            )
        return library_service_pb2.ListDocumentsResponse(
            documents=[_named(library, each) for each in page.documents],
            next_page_token=page.next_page_token,
            document_count=page.document_count,
        )

    async def UpdateDocument(
        self, request: library_service_pb2.UpdateDocumentRequest, context: Context
    ) -> document_pb2.Document:
        library, document = parse_library_document(request.document.name, "document.name")
        unknown = [path for path in request.update_mask.paths if path != "attributes"]
        if unknown:
            raise InvalidField("update_mask", f"{unknown[0]!r} cannot be changed; expected attributes")
        with _of(library, document):
            changed = await self._libraries.documents.update(
                tenant(),
                library_session(library),
                document,
                request.document.attributes,
                etag=request.document.etag,
            )
            await self._libraries.shelves.note(Place(tenant(), library), document, changed)
        return _named(library, changed)

    async def DeleteDocument(
        self, request: library_service_pb2.DeleteDocumentRequest, context: Context
    ) -> empty_pb2.Empty:
        library, document = parse_library_document(request.name)
        with _of(library, document):
            if request.etag:
                await self._libraries.documents.delete(tenant(), library_session(library), document, etag=request.etag)
                await self._libraries.shelves.detach(Place(tenant(), library), document)
            elif not await self._libraries.shelves.detach(Place(tenant(), library), document):
                raise NotFound(document)
        return empty_pb2.Empty()

    async def SearchLibrary(
        self, request: library_service_pb2.SearchLibraryRequest, context: Context
    ) -> library_service_pb2.SearchLibraryResponse:
        library = parse_library(request.name)
        query = Query(
            request.query,
            limit=request.limit,
            # The same messages by another package's name: session.v1 cannot import context.v1, which imports it.
            filter=search_pb2.AttributeFilter.FromString(request.filter.SerializeToString())
            if request.HasField("filter")
            else None,
            score_min=request.score_min,
            words_only=request.words_only,
        )
        with _of(library):
            found = await self._libraries.searching.search(Place(tenant(), library), query)
        return library_service_pb2.SearchLibraryResponse(
            passages=[_passage(library, each) for each in found.passages],
            words_only=found.words_only,
            revision=found.revision,
        )


def _passage(library: str, found: search_pb2.FoundPassage) -> library_pb2.LibraryPassage:
    """A passage under its document's name."""
    return library_pb2.LibraryPassage(
        document=library_document_name(library, found.document),
        display_name=found.display_name,
        attributes=found.attributes,
        start_byte=found.start_byte,
        text=found.text,
        score=found.score,
    )


def _named(library: str, document: document_pb2.Document) -> document_pb2.Document:
    """The document under its library's name."""
    document.name = library_document_name(library, document.name.rpartition("/")[2])
    return document


@contextmanager
def _of(library: str, document: str = "") -> Iterator[None]:
    """Within, what is not found is told by the name that the caller used."""
    try:
        yield
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
            raise
        raise NotFound(library_document_name(library, document) if document else library_name(library)) from error


async def _parts(
    first: library_service_pb2.LibraryServiceIngestDocumentRequest,
    rest: AsyncIterator[library_service_pb2.LibraryServiceIngestDocumentRequest],
) -> AsyncIterator[document_pb2.DocumentPart]:
    yield first.part
    async for request in rest:
        yield request.part
