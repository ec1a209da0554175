"""A whole session as a stream of records, a page of it in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import record_pb2, session_pb2, turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.log.keys import Keys
from context_store.session.fragment_service import pages_of, shown
from context_store.session.records import FORMAT, Sum
from context_store.store import Store, keys_of, now
from services.errors import NotFound

_TURNS_COUNT = 100
# What an answer may have beyond its records' bytes.
_FRAME_BYTES = 16


class Exporter:
    """Serves ExportSession: the log up to an open turn, as it is when the export begins."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def export(self, request: api.ExportSessionRequest) -> AsyncIterator[api.ExportSessionResponse]:
        """Records in messages of about `chunk_bytes_max`; NOT_FOUND also once the session is erased on the way."""
        keys = keys_of(request.key)
        total = Sum()
        answer, size = api.ExportSessionResponse(), 0
        async for record in self._records(keys):
            total.add(record)
            size += record.ByteSize() + _FRAME_BYTES
            if answer.records and size > self._store.settings.chunk_bytes_max:
                yield answer
                answer, size = api.ExportSessionResponse(), record.ByteSize() + _FRAME_BYTES
            answer.records.append(record)
        answer.records.append(total.end())
        yield answer

    async def _records(self, keys: Keys) -> AsyncIterator[record_pb2.SessionRecord]:
        hot = await self._store.read(keys)
        last = hot.open.first_input_sequence - 1 if hot.open else hot.history.revision
        turn_count = hot.turn_count - 1 if hot.open else hot.turn_count
        yield record_pb2.SessionRecord(header=_header(hot, last, turn_count))
        for document_id in await self._store.log.document_ids(keys):
            document = await self._store.log.document(keys, document_id)
            if document and document.last_sequence <= last:
                yield record_pb2.SessionRecord(document=document)
        async for turn in self._turns(keys, turn_count):
            yield record_pb2.SessionRecord(turn=turn)
        async for record in self._fragments(keys, hot.incarnation, last):
            yield record

    async def _turns(self, keys: Keys, count: int) -> AsyncIterator[turn_pb2.Turn]:
        for first in range(1, count + 1, _TURNS_COUNT):
            for stored in await self._store.log.turns(keys, range(first, min(count, first + _TURNS_COUNT - 1) + 1)):
                if stored:
                    yield turn_pb2.Turn.FromString(stored)

    async def _fragments(self, keys: Keys, incarnation: bytes, last: int) -> AsyncIterator[record_pb2.SessionRecord]:
        settings, following = self._store.settings, 1
        while following:
            hot = await self._store.read(keys)
            if hot.incarnation != incarnation:
                raise NotFound(f"sessions/{keys.session}")
            live = hot.history.live(following, last)
            page, following = pages_of(hot, live, settings.log_page_count_max, settings.chunk_bytes_max)
            found = await self._store.bodies.get(keys, incarnation, page)
            for fragment in shown(hot, found, with_text=True):
                yield record_pb2.SessionRecord(fragment=fragment)


def _header(hot: HotSession, last: int, turn_count: int) -> record_pb2.SessionRecord.Header:
    session = session_pb2.Session()
    session.CopyFrom(hot.own)
    session.revision, session.turn_count = last, turn_count
    session.text_bytes, session.tokens = hot.history.text_bytes, hot.tokens()
    return record_pb2.SessionRecord.Header(format=FORMAT, session=session, export_time=now())
