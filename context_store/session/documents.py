"""Documents of any length, written as their chunks come: one fragment, one chunk and one batch are held at most."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, fragment_pb2, message_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.fragments import Draft, Origin
from context_store.log.keys import Keys
from context_store.log.stored import Reply
from context_store.log.stored_documents import StoredDocument
from context_store.session.attributes import check_attributes, passage_tokens
from context_store.session.document_deletion import DocumentDeletions
from context_store.session.document_service import Announce
from context_store.store import Store, entries, keys_of, now
from services.cuts import cut
from services.errors import InvalidField, IsthmusError, NotFound


class DocumentStreams:
    """Serves WriteDocument."""

    def __init__(self, store: Store, deletions: DocumentDeletions, announce: Announce) -> None:
        self._store = store
        self._deletions = deletions
        self._announce = announce

    async def write(self, requests: AsyncIterator[api.WriteDocumentRequest]) -> document_pb2.Document:
        """Appends the stream's text; DOCUMENT_INCOMPLETE where it closes before its `end`."""
        first = await anext(requests, None)
        if first is None or first.part.WhichOneof("part") != "header":
            raise InvalidField("part", "expected a header as the first message")
        if not first.HasField("key"):
            raise InvalidField("key", "expected it on the first message")
        self._store.tiers.memory.admit("a document")
        writer = await self._writer(keys_of(first.key), first.part.header)
        async for request in requests:
            match request.part.WhichOneof("part"):
                case "chunk":
                    await writer.feed(request.part.chunk)
                case "end":
                    document = await writer.end(request.part.end.size_bytes)
                    self._announce(keys_of(first.key), StoredDocument(document), "")
                    return document
                case _:
                    raise InvalidField("part", "a second header; expected a chunk or the end")
        raise await writer.incomplete()

    async def _writer(self, keys: Keys, header: document_pb2.DocumentPart.Header) -> DocumentWriter:
        check_attributes(header.attributes, "part.header.attributes")
        tokens_max, overlap = passage_tokens(header)
        await self._store.log.version(keys)
        stored = await self._store.log.stored_document(keys, header.document_id)
        if stored and stored.is_gone:
            await self._deletions.resume(keys, header.document_id)
            stored = None
        document = (
            stored.document
            if stored
            else document_pb2.Document(
                name=f"sessions/{keys.session}/documents/{header.document_id}",
                display_name=header.display_name,
                state=document_pb2.Document.STATE_RECEIVING,
                create_time=now(),
                attributes=header.attributes if header.HasField("attributes") else None,
                passage_tokens_max=tokens_max,
                passage_overlap_tokens=overlap,
                media_type=header.media_type,
                etag=secrets.token_hex(8),
            )
        )
        return DocumentWriter(self._store, keys, header.document_id, document)


class DocumentWriter:
    """Cuts a stream of bytes into fragments and appends them in batches. The cuts do not depend on the chunks."""

    def __init__(self, store: Store, keys: Keys, document_id: str, document: document_pb2.Document) -> None:
        self._store = store
        self._keys = keys
        self._id = document_id
        self._document = document
        self._rest = bytearray()
        self._batch: list[Draft] = []
        self._batch_bytes = 0
        self._origin = Origin(
            fragment_pb2.FRAGMENT_KIND_DOCUMENT,
            message_pb2.ROLE_USER,
            author=document.display_name,
            document=document.name,
        )

    @property
    def _position(self) -> int:
        """Bytes of the document so far, committed or not."""
        return self._document.committed_bytes + self._batch_bytes + len(self._rest)

    async def feed(self, chunk: document_pb2.DocumentPart.Chunk) -> None:
        """Takes in a chunk. DOCUMENT_OFFSET unless it continues the document, INVALID_UTF8 with the first bad byte."""
        if chunk.offset != self._position or self._document.state == document_pb2.Document.STATE_COMPLETE:
            raise self._offset(f"a chunk begins at byte {chunk.offset}; expected {self._position}")
        if self._position + len(chunk.data) > self._store.settings.document_bytes_max:
            raise InvalidField(
                "part.chunk.data", f"expected at most {self._store.settings.document_bytes_max} bytes in one document"
            )
        self._rest += chunk.data
        bytes_max = self._store.settings.fragment_bytes_max
        while len(self._rest) > bytes_max:
            await self._take(cut(self._rest, bytes_max))
            if self._batch_bytes >= self._store.settings.document_batch_bytes_max:
                await self._flush()

    async def end(self, size_bytes: int) -> document_pb2.Document:
        """Appends what is left and closes the document. The same end again answers with what stands."""
        if size_bytes != self._position:
            raise self._offset(f"its end says {size_bytes} bytes, {self._position} came")
        if self._rest:
            await self._take(len(self._rest))
        # Of a complete one, too: that it is complete is an acknowledgement, and may not be on a replica yet.
        await self._flush(is_last=True)
        return self._document

    async def incomplete(self) -> IsthmusError:
        """Keeps what is cut; the error says where to go on."""
        await self._flush()
        return IsthmusError(
            errors_pb2.ERROR_REASON_DOCUMENT_INCOMPLETE,
            f"{self._document.name}: the stream closed before its end; expected an end, resume at committed_bytes",
            metadata=self._committed(),
        )

    async def _take(self, size: int) -> None:
        try:
            text = self._rest[:size].decode()
        except UnicodeDecodeError as error:
            offset = self._document.committed_bytes + self._batch_bytes + error.start
            await self._flush()
            raise IsthmusError(
                errors_pb2.ERROR_REASON_INVALID_UTF8,
                f"{self._document.name}: byte {offset} is not UTF-8; expected UTF-8 text",
                metadata={"offset": str(offset), **self._committed()},
            ) from error
        part = self._document.fragment_count + len(self._batch)
        self._batch.append(Draft.make(self._origin, part, text, size))
        self._batch_bytes += size
        del self._rest[:size]

    async def _flush(self, is_last: bool = False) -> None:
        if not self._batch and not is_last:
            return
        mark = secrets.token_hex(8)
        stored = entries(self._batch, now())
        after = self._after(is_last)

        async def change(slot: Slot, hot: HotSession) -> Reply:
            self._store.usage.check(self._keys, hot, self._batch_bytes)
            reply = await self._store.log.append_document(
                self._keys, self._id, self._document.committed_bytes, mark, after, stored, disk=hot.is_on_disk
            )
            if reply.outcome == "DELETING":
                raise NotFound(self._document.name)
            if reply.outcome == "OFFSET":
                self._document.committed_bytes = int(reply.values[0])
                raise self._offset("another stream writes it; expected one at a time")
            await self._store.appended(slot, hot, reply, self._batch)
            return reply

        reply = await self._store.write(self._keys, change)
        after.first_sequence, after.last_sequence = int(reply.values[2]), int(reply.values[3])
        self._document = after
        self._batch, self._batch_bytes = [], 0

    def _after(self, is_last: bool) -> document_pb2.Document:
        """The document once the batch is committed."""
        after = document_pb2.Document()
        after.CopyFrom(self._document)
        after.committed_bytes += self._batch_bytes
        after.fragment_count += len(self._batch)
        if is_last:
            after.state = document_pb2.Document.STATE_COMPLETE
        return after

    def _offset(self, message: str) -> IsthmusError:
        return IsthmusError(
            errors_pb2.ERROR_REASON_DOCUMENT_OFFSET,
            f"{self._document.name}: {message}; resume at committed_bytes",
            metadata=self._committed(),
        )

    def _committed(self) -> dict[str, str]:
        return {"committed_bytes": str(self._document.committed_bytes)}
