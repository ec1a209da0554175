"""A session made of an export's records: hidden until its end has come and fits, erased where it does not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2, fragment_pb2, record_pb2, session_pb2, turn_pb2

from context_store.log.fragments import estimate_tokens, pack
from context_store.log.keys import Keys
from context_store.log.stored import MARK_BYTES, ImportPage
from context_store.session.creating import Creator, taken
from context_store.session.deletion import Deletions
from context_store.session.quotas import Sums
from context_store.session.records import RecordCheck, document_id
from context_store.session.session_fields import MUTABLE, copy_fields
from context_store.store import Store, keys_of, now
from context_store.turn import turns
from services.errors import InvalidField, IsthmusError

# Records that one script call writes, as Lua takes no endless list of arguments.
_RECORDS_COUNT_MAX = 500


class ImportService:
    """Serves ImportSession."""

    def __init__(self, store: Store, creator: Creator, deletions: Deletions) -> None:
        self._store = store
        self._creator = creator
        self._deletions = deletions

    async def load(self, requests: AsyncIterator[api.ImportSessionRequest]) -> Keys:
        """Makes the session of the stream's records; its keys. INVALID_FIELD names the record that does not fit."""
        first = await anext(requests, None)
        if first is None:
            raise InvalidField("records", "the stream is empty; expected a header as its first record")
        if not first.HasField("key"):
            raise InvalidField("key", "expected it on the first message")
        importing = _Importing(self._store, self._creator, keys_of(first.key))
        try:
            for record in first.records:
                await importing.take(record)
            async for request in requests:
                for record in request.records:
                    await importing.take(record)
            await importing.end()
        except BaseException:
            if await importing.is_begun():
                await self._deletions.discard(importing.keys, importing.mark)
            raise
        return importing.keys


class _Importing:
    """One import: the records that came since the last page."""

    def __init__(self, store: Store, creator: Creator, keys: Keys) -> None:
        self._store = store
        self._creator = creator
        self._check = RecordCheck(store.settings.import_sequence_max)
        self._page = ImportPage()
        self._tokens = 0
        self.keys = keys
        self.mark = secrets.token_bytes(MARK_BYTES)
        self._beginning: asyncio.Task[None] | None = None

    async def is_begun(self) -> bool:
        """Whether there may be something to erase. What is half begun is begun first, or its traces would stay."""
        if self._beginning:
            await asyncio.gather(self._beginning, return_exceptions=True)
        return self._beginning is not None

    async def take(self, record: record_pb2.SessionRecord) -> None:
        self._check.take(record)
        match record.WhichOneof("record"):
            case "header":
                self._beginning = asyncio.create_task(self._begin(record.header.session))
                await asyncio.shield(self._beginning)
            case "fragment":
                self._fragment(record.fragment)
            case "turn":
                self._turn(record.turn)
            case "document":
                self._document(record.document)
        settings = self._store.settings
        if self._page.bytes >= settings.document_batch_bytes_max or self._page.count >= _RECORDS_COUNT_MAX:
            await self._flush()

    async def end(self) -> None:
        if not self._check.is_ended:
            raise self._check.incomplete()
        await self._flush()
        check, own = self._check, self._own
        fields = {
            "revision": check.revision,
            "turn_count": check.turn_count,
            "done_turn": check.done_turn,
            "done_input": check.done_input,
        }
        is_on_disk = own.durability == session_pb2.DURABILITY_DISK
        reply = await self._store.log.end_import(self.keys, self.mark, own, fields, disk=is_on_disk)
        self._check_there(reply.outcome != "GONE")
        await self._creator.settle(self.keys, own)
        self._store.usage.note_sums(self.keys, Sums(check.text_bytes, self._tokens))

    async def _begin(self, header: session_pb2.Session) -> None:
        keys, settings = self.keys, self._store.settings
        self._store.tiers.memory.admit("an import")
        own = self._own = session_pb2.Session(name=f"sessions/{keys.session}", etag=secrets.token_hex(8))
        copy_fields(header, own, MUTABLE)
        own.create_time.CopyFrom(now())
        own.update_time.CopyFrom(own.create_time)
        for _ in range(settings.revision_retries_count_max):
            await self._creator.enter(keys, own)
            await self._store.tiers.indexes.note_due(keys, keys.member, settings.import_idle_ms_max)
            reply = await self._store.log.begin_import(keys, own, self.mark, settings.import_idle_ms_max)
            if not await self._creator.is_in_the_way(keys, reply):
                return
        raise taken(keys)

    def _fragment(self, fragment: fragment_pb2.Fragment) -> None:
        header = fragment_pb2.Fragment()
        header.CopyFrom(fragment)
        for field in ("name", "sequence", "text", "tokens", "tokens_exact"):
            header.ClearField(field)
        if fragment.document:
            header.document = f"sessions/{self.keys.session}/documents/{document_id(fragment.document)}"
        data = fragment.text.encode()
        self._tokens += estimate_tokens(len(data))
        self._page.add_fragment(fragment.sequence, header.SerializeToString(), pack(data), len(data))

    def _turn(self, turn: turn_pb2.Turn) -> None:
        stored = turn_pb2.Turn()
        stored.CopyFrom(turn)
        stored.name = f"sessions/{self.keys.session}/turns/{turn.number}"
        stored.ClearField("output_text")
        self._page.add_turn(turn.number, stored.SerializeToString(), turns.LETTERS[turn.state], turn.request_id)

    def _document(self, document: document_pb2.Document) -> None:
        name = document_id(document.name)
        stored = document_pb2.Document()
        stored.CopyFrom(document)
        stored.name = f"sessions/{self.keys.session}/documents/{name}"
        # Vectors do not travel: they are made of the text again.
        for field in ("passage_count", "embedded_count", "embedder", "error"):
            stored.ClearField(field)
        place = f"{document.committed_bytes}::{document.first_sequence}:{document.last_sequence}"
        self._page.add_document(name, stored.SerializeToString(), place)

    async def _flush(self) -> None:
        self._store.usage.check_sums(self.keys, Sums(self._check.text_bytes, self._tokens))
        page, self._page = self._page, ImportPage()
        is_put = await self._store.log.import_page(self.keys, self.mark, page, self._store.settings.import_idle_ms_max)
        self._check_there(is_put)

    def _check_there(self, is_there: bool) -> None:
        if not is_there:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
                f"sessions/{self.keys.session}: the import made no progress for"
                f" {self._store.settings.import_idle_ms_max} ms and was erased; expected records sooner, send it again",
            )
