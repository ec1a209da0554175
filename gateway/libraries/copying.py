"""Files on their way into libraries, in the background: any gateway copies, and another one goes on where it was lost.

A copy is a job; it may be delivered again at any moment. How far it is stands in the library's log: each delivery goes
on from the document's `committed_bytes`. The book's record says whether it is still wanted.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import timedelta
from random import random
from typing import Final

import msgspec
import structlog
from docket import Docket, Retry
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2

from gateway.backend import Backend
from gateway.jobs.queue import JobQueue
from gateway.jobs.verdict import backoff_ms
from gateway.libraries.attachment import Attachment, AttachmentState
from gateway.libraries.book import Book, Place
from gateway.libraries.documents import Documents, struct_of
from gateway.libraries.file_record import File
from gateway.libraries.files import Files
from gateway.libraries.metrics import CopyMetrics
from gateway.libraries.places import library_session
from gateway.libraries.progress import copied, embedded, missed
from services.config import Settings
from services.errors import IsthmusError
from services.job_worker import Pace

ADD_FILE: Final = "add_file"
# How often a copy looks whether it is still wanted.
_LOOK_S: Final = 1.0
_log: Final = structlog.get_logger("libraries")


class _Unwanted(Exception):  # noqa: N818
    """The file was cancelled, removed, or attached anew meanwhile."""


class Copying:
    """The gateway's part in the mesh's copies. Methods raise IsthmusErrors."""

    def __init__(
        self,
        backend: Backend,
        documents: Documents,
        files: Files,
        book: Book,
        settings: Settings,
        member_id: str,
        metrics: CopyMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._documents = documents
        self._files = files
        self._book = book
        self._metrics = metrics
        self._clock = clock
        own = self._settings = settings.gateway.libraries
        self._drain_ms_max = settings.rpc.drain_ms_max
        pace = Pace(own.copies_concurrent_max, own.poll_ms, own.schedule_ms, own.redelivery_ms, own.reconnect_ms)
        self._queue = JobQueue(settings, "-libraries", pace, member_id, self._register)

    def start(self) -> None:
        """Begins to take copies."""
        self._queue.start()

    async def drain(self) -> None:
        """Takes no new copy and lets those that run end, within `rpc.drain_ms_max`."""
        await self._queue.drain(self._drain_ms_max)

    async def stop(self) -> None:
        """Leaves what still runs to the other gateways."""
        await self._queue.stop()

    async def add(self, place: Place, record: Attachment) -> None:
        """Asks for a copy; nothing is added where it waits or runs."""
        key = record.key(place.tenant, place.library)
        await self._queue.add(ADD_FILE, key, place.tenant, place.library, record.file, record.mark)

    async def run(self, place: Place, file: str, mark: str, delivery: int) -> int | None:
        """Works at a copy; the wait in ms until its next attempt, None when it is over."""
        try:
            record = await self._wanted(place, file, mark)
            with self._metrics.running.track_inprogress():
                return await self._work(place, record)
        except _Unwanted:
            await self._clean(place, file, mark)
            return None
        except IsthmusError as error:
            # Not the copy's failure: nothing could be learned of it, or noted. That ends no job.
            _log.warning("copy later", library=place.library, file=file, error=str(error))
            settings = self._settings
            return backoff_ms(delivery, settings.retry_ms_min, settings.retry_ms_max, random())  # noqa: S311

    async def _work(self, place: Place, record: Attachment) -> int | None:
        try:
            document = await self._whole(place, record)
        except IsthmusError as error:
            return await self._missed(place, record, error)
        except _Unwanted:
            raise
        except Exception as error:  # noqa: BLE001 - a bug that one file meets ends in its failure, not in nothing
            _log.exception("copy failed", library=place.library, file=record.file)
            internal = IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, f"an error of ours, {type(error).__name__}")
            return await self._missed(place, record, internal)
        now_ms = int(self._clock() * 1000)
        after, wait_ms = embedded(copied(record, document, now_ms), document, now_ms, self._settings)
        if wait_ms is None and after.state is AttachmentState.COMPLETED:
            await self._same_attributes(place, after, document)
        await self._change(place, record, after)
        return wait_ms

    async def _whole(self, place: Place, record: Attachment) -> document_pb2.Document:
        """The library's document once all of the file's text is in it."""
        document = await self._document(place, record.file)
        if document.state == document_pb2.Document.STATE_COMPLETE:
            return document
        if record.is_upload:
            raise IsthmusError(errors_pb2.ERROR_REASON_NOT_FOUND, "its text is gone, or was never whole; send it anew")
        file = await self._files.get(place.tenant, record.file)
        parts = self._parts(place, record, file, document.committed_bytes)
        return await self._backend.write_document(place.tenant, library_session(place.library), parts)

    async def _parts(
        self, place: Place, record: Attachment, file: File, offset: int
    ) -> AsyncIterator[document_pb2.DocumentPart]:
        part = document_pb2.DocumentPart
        yield part(
            header=part.Header(
                document_id=record.file,
                display_name=file.filename,
                attributes=struct_of(record.attributes) if record.attributes else None,
                passage_tokens_max=record.tokens_max,
                passage_overlap_tokens=record.overlap_tokens,
                media_type=file.media_type,
            )
        )
        looked = time.monotonic()
        async with aclosing(self._files.read(place.tenant, file.id, offset)) as pieces:
            async for data in pieces:
                if time.monotonic() - looked > _LOOK_S:
                    await self._wanted(place, record.file, record.mark)
                    looked = time.monotonic()
                yield part(chunk=part.Chunk(offset=offset, data=data))
                offset += len(data)
        yield part(end=part.End(size_bytes=offset))

    async def _missed(self, place: Place, record: Attachment, error: IsthmusError) -> int | None:
        document = await self._document(place, record.file)
        # What is in the log by now is progress, whatever came then.
        moved = copied(record, document, int(self._clock() * 1000))
        after, wait_ms = missed(moved, error, self._settings, random())  # noqa: S311
        if wait_ms is None:
            _log.warning("file not added", library=place.library, file=record.file, error=str(error))
        await self._change(place, record, after)
        return wait_ms

    async def _same_attributes(self, place: Place, record: Attachment, document: document_pb2.Document) -> None:
        """Those of a change that came while the document was not there yet."""
        wanted = struct_of(record.attributes)
        if wanted != document.attributes:
            await self._documents.update(place.tenant, library_session(place.library), record.file, wanted)

    async def _change(self, place: Place, before: Attachment, after: Attachment) -> None:
        """Notes how far it is, unless it is not wanted any more; attributes may be others by now."""
        while not await self._book.change(place, before, after):
            found = await self._wanted(place, before.file, before.mark)
            before, after = found, _with_attributes(after, found)
        if after.state.is_over:
            self._metrics.ended(after.state)

    async def _wanted(self, place: Place, file: str, mark: str) -> Attachment:
        record = await self._book.find(place, file)
        if record is None or record.mark != mark or record.state.is_over:
            raise _Unwanted
        return record

    async def _clean(self, place: Place, file: str, mark: str) -> None:
        """Takes away what was copied of a file that is not wanted any more, unless it is wanted again."""
        record = await self._book.find(place, file)
        is_left = record is None or (record.mark == mark and record.state is AttachmentState.CANCELLED)
        if is_left:
            with suppress(IsthmusError):
                await self._documents.delete(place.tenant, library_session(place.library), file)

    async def _document(self, place: Place, document: str) -> document_pb2.Document:
        """The library's document; an empty one where it has not begun."""
        try:
            return await self._backend.get_document(place.tenant, library_session(place.library), document)
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
                raise
            return document_pb2.Document()

    def _register(self, docket: Docket) -> None:
        again = Retry(attempts=None, delay=timedelta(milliseconds=self._settings.retry_ms_max))

        async def add_file(tenant: str, library: str, file: str, mark: str, retry: Retry = again) -> None:
            wait_ms = await self.run(Place(tenant, library), file, mark, retry.attempt)
            if wait_ms is not None:
                retry.after(timedelta(milliseconds=wait_ms))

        docket.register(add_file, names=[ADD_FILE])


def _with_attributes(after: Attachment, found: Attachment) -> Attachment:
    return msgspec.structs.replace(after, attributes=found.attributes)
