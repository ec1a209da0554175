"""A stream on its way from an edge to its shard, one message at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from isthmus.context.v1 import context_service_pb2
from isthmus.session.v1 import document_pb2, record_pb2


class Relay:
    """The shard's requests for a document's parts; it holds the part that is being sent, and no other."""

    def __init__(self, key: context_service_pb2.SessionKey, parts: AsyncIterator[document_pb2.DocumentPart]) -> None:
        self._key = key
        self._parts = parts
        # What the edge's stream failed with, if it did.
        self.failure: Exception | None = None

    async def requests(self) -> AsyncIterator[context_service_pb2.WriteDocumentRequest]:
        """One request a part; the first names the session."""
        key: context_service_pb2.SessionKey | None = self._key
        try:
            async for part in self._parts:
                yield context_service_pb2.WriteDocumentRequest(key=key, part=part)
                key = None
        except Exception as error:
            self.failure = error
            raise


class ImportRelay:
    """The shard's requests for an import's records; it holds the page that is being sent, and no other."""

    def __init__(
        self, key: context_service_pb2.SessionKey, pages: AsyncIterator[Sequence[record_pb2.SessionRecord]]
    ) -> None:
        self._key = key
        self._pages = pages
        # What the edge's stream failed with, if it did.
        self.failure: Exception | None = None

    async def requests(self) -> AsyncIterator[context_service_pb2.ImportSessionRequest]:
        """One request a page; the first names the session."""
        key: context_service_pb2.SessionKey | None = self._key
        try:
            async for page in self._pages:
                yield context_service_pb2.ImportSessionRequest(key=key, records=page)
                key = None
        except Exception as error:
            self.failure = error
            raise
