"""From Valkey to memory: a session read whole, or only what a copy has missed. Bodies stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.session.v1 import fragment_pb2, session_pb2, turn_pb2

from context_store.epoch import Marks
from context_store.history import History
from context_store.hot_session import HotSession
from context_store.keys import Keys
from context_store.log_reads import LogReads
from context_store.segments import Segments
from context_store.stored import Row, Snapshot, base_of, count_of, summary_of
from context_store.window import Window
from services.config import StoreSettings


class Loader:
    """Makes and renews copies of sessions. `version` is read first: a copy is never older than it says."""

    def __init__(self, log: LogReads, settings: StoreSettings) -> None:
        self._log = log
        self._settings = settings

    async def load(self, keys: Keys) -> HotSession:
        """Reads a session; NotFound if there is none."""
        snapshot = await self._snapshot(keys, 0)
        history = History()
        await self._append(keys, history, snapshot)
        hot = self._copy(keys, snapshot, history, Segments(self._settings.segment_tokens))
        await self._read_void(keys, hot)
        await self._read_counts(keys, hot)
        await self._read_summaries(keys, hot)
        return _ready(hot, snapshot)

    async def refresh(self, old: HotSession) -> HotSession:
        """A copy as new as Valkey's, made from an older one: only the log's tail is read, and parts that changed."""
        keys = Keys(old.tenant, old.session)
        snapshot = await self._snapshot(keys, old.history.revision)
        if snapshot.token(b"incarnation") != old.incarnation or snapshot.number(b"revision") < old.history.revision:
            return await self.load(keys)
        await self._append(keys, old.history, snapshot)
        hot = self._copy(keys, snapshot, old.history, old.segments)
        hot.announced = old.announced
        if hot.void_at != old.void_at:
            await self._read_void(keys, hot)
        if hot.counts_at != old.counts_at or hot.tokenizer != old.tokenizer:
            hot.history.forget_counts()
            await self._read_counts(keys, hot)
        if hot.summaries_at != old.summaries_at:
            await self._read_summaries(keys, hot)
        else:
            hot.summaries, hot.summarised = old.summaries, old.summarised
        return _ready(hot, snapshot)

    async def _snapshot(self, keys: Keys, known: int) -> Snapshot:
        return await self._log.snapshot(keys, known + 1, self._settings.log_page_count_max)

    def _copy(self, keys: Keys, snapshot: Snapshot, history: History, segments: Segments) -> HotSession:
        meta = snapshot.meta
        return HotSession(
            tenant=keys.tenant,
            session=keys.session,
            incarnation=snapshot.token(b"incarnation"),
            version=snapshot.token(b"version"),
            own=session_pb2.Session.FromString(meta[b"own"]),
            marks=Marks(self._settings.window_low_ratio, self._settings.window_summary_share),
            history=history,
            segments=segments,
            turn_count=snapshot.number(b"turn_count"),
            done_input=snapshot.number(b"done_input"),
            open=turn_pb2.Turn.FromString(snapshot.open_turn) if snapshot.open_turn else None,
            tokenizer=meta.get(b"tokenizer", b""),
            scale=float(meta.get(b"scale", b"1")),
            void_at=snapshot.token(b"void_at"),
            counts_at=snapshot.token(b"counts_at"),
            summaries_at=snapshot.token(b"summaries_at"),
        )

    async def _append(self, keys: Keys, history: History, snapshot: Snapshot) -> None:
        revision = snapshot.number(b"revision")
        rows = snapshot.rows
        while rows:
            _take(history, rows, revision)
            if history.revision >= revision or len(rows) < self._settings.log_page_count_max:
                break
            first = rows[-1].sequence + 1
            rows = await self._log.rows(keys, first, revision, self._settings.log_page_count_max, with_bodies=False)
        # Erased ones at the log's end have no row of their own.
        _take(history, (), revision)

    async def _read_void(self, keys: Keys, hot: HotSession) -> None:
        turns: set[int] = set()
        async for member in self._log.void(keys):
            if member.startswith(b"t"):
                turns.add(int(member[1:]))
            else:
                sequence, size = (int(number) for number in member[1:].split(b":"))
                if sequence <= hot.history.revision:
                    hot.history.erase(sequence, size)
        hot.history.void_turns(turns)

    async def _read_counts(self, keys: Keys, hot: HotSession) -> None:
        if not hot.tokenizer:
            return
        async for number, value in self._log.counts(keys):
            sequence = int(number)
            counted_by, tokens = count_of(value)
            if counted_by == hot.tokenizer and sequence <= hot.history.revision:
                hot.history.set_count(sequence, tokens)

    async def _read_summaries(self, keys: Keys, hot: HotSession) -> None:
        async for header in self._log.summaries(keys):
            hot.summarise(summary_of(header))


def _take(history: History, rows: Sequence[Row], revision: int) -> None:
    """Appends rows; numbers without one belong to fragments that were erased."""
    for row in rows:
        while history.revision + 1 < row.sequence:
            history.append_erased()
        header = fragment_pb2.Fragment.FromString(row.header)
        history.append(header.digest, row.size, header.turn, header.pinned)
    if not rows:
        while history.revision < revision:
            history.append_erased()


def _ready(hot: HotSession, snapshot: Snapshot) -> HotSession:
    hot.window = Window(base_of(snapshot.meta.get(b"window")), hot.history)
    hot.settle()
    return hot
