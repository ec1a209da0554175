"""Calls on documents of any session, whichever shard holds it; in the store's own messages and ids."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc.aio
from google.protobuf import struct_pb2
from isthmus.context.v1 import context_service_pb2 as store
from isthmus.context.v1 import search_pb2
from isthmus.session.v1 import document_pb2

from gateway.shards import Shards
from services.config import Settings
from services.errors import from_rpc_error
from services.rpc.deadlines import remaining_s


class Documents:
    """Reads, changes and searches documents. Every error is an IsthmusError; writing is `Backend.write_document`."""

    def __init__(self, shards: Shards, settings: Settings) -> None:
        self._shards = shards
        self._settings = settings

    async def list(
        self,
        tenant: str,
        session: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        descending: bool = False,
        state: document_pb2.Document.State.ValueType = document_pb2.Document.STATE_UNSPECIFIED,
    ) -> store.ListDocumentsResponse:
        """A page of a session's documents by the time they were begun; a page_size of 0 takes 100."""
        request = store.ListDocumentsRequest(
            key=_key(tenant, session), page_size=page_size, page_token=page_token, descending=descending, state=state
        )
        return await self._shards.call(lambda stub: stub.ListDocuments, tenant, session, request, until=self.until())

    async def update(
        self, tenant: str, session: str, document: str, attributes: struct_pb2.Struct, *, etag: str = ""
    ) -> document_pb2.Document:
        """Puts attributes in place of those that the document has; ETAG_MISMATCH if an etag is given and stale."""
        request = store.UpdateDocumentRequest(
            key=_key(tenant, session), document=document, attributes=attributes, etag=etag
        )
        # A second update with the etag of before the first would be told that the etag is stale.
        call = self._shards.call_once if etag else self._shards.call
        return await call(lambda stub: stub.UpdateDocument, tenant, session, request, until=self.until())

    async def delete(self, tenant: str, session: str, document: str, *, etag: str = "") -> None:
        """Erases a document's text and vectors; NOT_FOUND where there is none."""
        request = store.DeleteDocumentRequest(key=_key(tenant, session), document=document, etag=etag)
        await self._shards.call_once(lambda stub: stub.DeleteDocument, tenant, session, request, until=self.until())

    async def read(
        self, tenant: str, session: str, document: str, offset: int = 0
    ) -> AsyncGenerator[store.ReadDocumentResponse, None]:
        """The document's bytes as they come, from an offset on. A shard that goes away ends the stream: resume."""
        stub = await self._shards.reachable(tenant, session, until=self.until())
        request = store.ReadDocumentRequest(key=_key(tenant, session), document=document, offset=offset)
        call = stub.ReadDocument(request, timeout=remaining_s())
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def search(
        self,
        tenant: str,
        session: str,
        query: str,
        *,
        vector: bytes = b"",
        embedder: str = "",
        limit: int = 0,
        attributes: search_pb2.AttributeFilter | None = None,
        score_min: float = 0.0,
    ) -> store.SearchDocumentsResponse:
        """The passages that suit the query best; by words alone without a vector."""
        request = store.SearchDocumentsRequest(
            key=_key(tenant, session),
            query=query,
            vector=vector,
            embedder=embedder,
            limit=limit,
            filter=attributes,
            score_min=score_min,
        )
        return await self._shards.call(lambda stub: stub.SearchDocuments, tenant, session, request, until=self.until())

    def until(self) -> float:
        """When a call has to be over, by time.monotonic()."""
        left = remaining_s()
        return time.monotonic() + (self._settings.rpc.deadline_ms_default / 1000 if left is None else left)


def struct_of(attributes: Mapping[str, Any]) -> struct_pb2.Struct:
    """Attributes as the contract has them."""
    made = struct_pb2.Struct()
    made.update(dict(attributes))
    return made


def _key(tenant: str, session: str) -> store.SessionKey:
    return store.SessionKey(tenant=tenant, session=session)
