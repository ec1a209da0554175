"""Files in libraries: attached to be copied there, looked up, changed, taken out; alone or in batches."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2

from gateway.backend import Backend
from gateway.libraries.attachment import (
    MARK_CHARS,
    OVERLAP_TOKENS_DEFAULT,
    TOKENS_MAX_DEFAULT,
    Attachment,
    AttachmentState,
    Batch,
)
from gateway.libraries.book import Book, FileCounts, Order, Place, counted
from gateway.libraries.copying import Copying
from gateway.libraries.documents import Documents, struct_of
from gateway.libraries.places import library_session, new_id
from gateway.libraries.progress import cancelled, copied
from services.config import LibrariesSettings
from services.errors import IsthmusError, NotFound

Attributes = Mapping[str, str | float | bool]
# Libraries whose lost jobs were looked for lately.
_MENDED_COUNT_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that is to be in a library, and how it is divided there."""

    file: str
    attributes: Attributes = field(default_factory=dict)
    tokens_max: int = TOKENS_MAX_DEFAULT
    overlap_tokens: int = OVERLAP_TOKENS_DEFAULT


class Shelves:
    """Files in libraries. Every error is an IsthmusError."""

    def __init__(
        self,
        backend: Backend,
        documents: Documents,
        book: Book,
        copying: Copying,
        settings: LibrariesSettings,
        random_bytes: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._documents = documents
        self._book = book
        self._copying = copying
        self._settings = settings
        self._random_bytes = random_bytes
        self._clock = clock
        self._mended: OrderedDict[Place, float] = OrderedDict()

    async def attach(
        self, place: Place, wanted: Wanted, filename: str, *, batch: str = "", kept_ms: int = 0
    ) -> Attachment:
        """A file that will be copied; the one that is there where it is in progress, or completed, already."""
        record = Attachment(
            file=wanted.file,
            mark=self._mark(),
            create_ms=self._now_ms(),
            batch=batch,
            filename=filename,
            attributes=dict(wanted.attributes),
            tokens_max=wanted.tokens_max,
            overlap_tokens=wanted.overlap_tokens,
        )
        stands, _ = await self._book.enter(place, record, kept_ms)
        if not stands.state.is_over:
            await self._copying.add(place, stands)
        return stands

    async def uploaded(self, place: Place, document: document_pb2.Document, kept_ms: int = 0) -> None:
        """Enters a document that a caller has streamed into the library itself, once it is whole."""
        now_ms = self._now_ms()
        record = Attachment(
            file=document.name.rpartition("/")[2],
            mark=self._mark(),
            create_ms=now_ms,
            filename=document.display_name,
            attributes=dict(document.attributes.items()),  # type: ignore[arg-type]
            tokens_max=document.passage_tokens_max or TOKENS_MAX_DEFAULT,
            overlap_tokens=document.passage_overlap_tokens,
            is_upload=True,
        )
        stands, _ = await self._book.enter(place, copied(record, document, now_ms), kept_ms)
        if not stands.state.is_over:
            await self._copying.add(place, stands)

    async def find(self, place: Place, file: str) -> Attachment:
        """A file of the library; NOT_FOUND where it has none of this id."""
        record = await self._book.find(place, file)
        if record is None:
            raise NotFound(f"libraries/{place.library}/documents/{file}")
        await self._mend(place, [record])
        return record

    async def page(
        self, place: Place, *, after: str = "", count: int, order: Order, state: AttachmentState | None = None
    ) -> list[Attachment] | None:
        """At most `count` files by the time they were attached; None where `after` is none of them."""
        found = await self._book.page(place, after=after, count=count, order=order, state=state)
        await self._mend(place, found or ())
        return found

    async def counts(self, place: Place) -> FileCounts:
        """How many files of each state."""
        counts = await self._book.counts(place)
        if counts.in_progress and self._is_due(place):
            state = AttachmentState.IN_PROGRESS
            await self._mend(place, await self._book.page(place, count=100, order="asc", state=state) or ())
        return counts

    async def update(self, place: Place, file: str, attributes: Attributes) -> Attachment:
        """Puts attributes in place of those that the file has."""
        while True:
            before = await self.find(place, file)
            after = msgspec.structs.replace(before, attributes=dict(attributes))
            if await self._book.change(place, before, after):
                break
        # A document that is not there yet gets them when it is whole.
        try:
            await self._documents.update(place.tenant, library_session(place.library), file, struct_of(attributes))
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
                raise
        return after

    async def note(self, place: Place, file: str, document: document_pb2.Document) -> None:
        """Takes in attributes that a document was given."""
        attributes: dict[str, str | float | bool] = dict(document.attributes.items())  # type: ignore[arg-type]
        found = await self._book.find(place, file)
        while found is not None:
            if await self._book.change(place, found, msgspec.structs.replace(found, attributes=attributes)):
                return
            found = await self._book.find(place, file)

    async def detach(self, place: Place, file: str) -> bool:
        """Takes a file out of the library, with its text; False where it has none of this id."""
        record = await self._book.find(place, file)
        if record is not None and not record.state.is_over:
            record = await self._cancel(place, record)
        was_there = await self._erase(place, file)
        while record is not None and not await self._book.change(place, record, None):
            record = await self._book.find(place, file)
        return was_there or record is not None

    async def begin_batch(self, place: Place, files: Sequence[str], kept_ms: int = 0) -> Batch:
        """A batch of files that are going to be attached."""
        batch = Batch(id=new_id(self._random_bytes, self._now_ms()), create_ms=self._now_ms(), files=list(files))
        await self._book.put_batch(place, batch, kept_ms)
        return batch

    async def batch(self, place: Place, batch: str) -> tuple[Batch, FileCounts]:
        """A batch and how far its files are; NOT_FOUND where there is none, or none any more."""
        found, records = await self._batch(place, batch)
        await self._mend(place, records)
        return found, counted(records)

    async def batch_files(self, place: Place, batch: str, state: AttachmentState | None) -> list[Attachment]:
        """All files of a batch, of one state if it is given, by the time they were attached."""
        _, records = await self._batch(place, batch)
        return sorted(
            (each for each in records if state in (None, each.state)), key=lambda each: (each.create_ms, each.file)
        )

    async def cancel_batch(self, place: Place, batch: str) -> tuple[Batch, FileCounts]:
        """Cancels what of a batch is still in progress."""
        found, records = await self._batch(place, batch)
        found = msgspec.structs.replace(found, is_cancelled=True)
        await self._book.put_batch(place, found)
        for record in records:
            if not record.state.is_over:
                await self._cancel(place, record)
                await self._erase(place, record.file)
        return await self.batch(place, batch)

    async def _batch(self, place: Place, batch: str) -> tuple[Batch, list[Attachment]]:
        found = await self._book.batch(place, batch)
        if found is None:
            raise NotFound(f"file batch {batch}")
        return found, [each for each in await self._book.among(place, found.files) if each.batch == batch]

    async def _cancel(self, place: Place, record: Attachment) -> Attachment | None:
        """The record once it is over, by this or by itself."""
        found: Attachment | None = record
        while found is not None and not found.state.is_over:
            after = cancelled(found)
            if await self._book.change(place, found, after):
                return after
            found = await self._book.find(place, record.file)
        return found

    async def _erase(self, place: Place, file: str) -> bool:
        try:
            await self._documents.delete(place.tenant, library_session(place.library), file)
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
                raise
            return False
        return True

    async def _mend(self, place: Place, records: Sequence[Attachment]) -> None:
        """Asks again for copies that a gateway may have left between book and queue; what is there stays as it is."""
        old_ms = self._now_ms() - self._settings.redelivery_ms
        lost = [each for each in records if not each.state.is_over and each.create_ms < old_ms]
        if not lost or not self._is_due(place):
            return
        self._mended[place] = self._clock()
        self._mended.move_to_end(place)
        if len(self._mended) > _MENDED_COUNT_MAX:
            self._mended.popitem(last=False)
        with suppress(IsthmusError):
            for each in lost:
                await self._copying.add(place, each)

    def _is_due(self, place: Place) -> bool:
        return self._clock() - self._mended.get(place, 0.0) > self._settings.redelivery_ms / 1000

    def _mark(self) -> str:
        return self._random_bytes(MARK_CHARS // 2).hex()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
