"""From Valkey to memory: a session read whole, or only what a copy has missed. Bodies stay where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isthmus.session.v1 import fragment_pb2, session_pb2, turn_pb2

from context_store.hot.history import History
from context_store.hot.hot_session import HotSession
from context_store.log.keys import Keys
from context_store.log.links import ancestor
from context_store.log.reads import LogReads
from context_store.log.stored import Row, Snapshot, base_of, count_of, descends, summary_of
from context_store.window.epoch import Marks, Past, rebase_on
from context_store.window.segments import Segments
from context_store.window.window import Window
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
        has_gaps = await self._append(keys, history, snapshot)
        hot = self._copy(keys, snapshot, history, Segments(self._settings.segment_tokens))
        # A part that was never written has no mark; what a fork shares may have one all the same. A fragment that was
        # erased since the snapshot has no row: a segment that ends behind it needs its size.
        if has_gaps or hot.void_at or hot.links:
            await self._read_void(keys, hot)
        if hot.counts_at or hot.links:
            await self._read_counts(keys, hot)
        if hot.summaries_at or hot.links:
            await self._read_summaries(keys, hot)
        shared = [one for one in range(1, hot.shared + 1) if not history.is_erased(one)]
        hot.shared_bytes = sum(history.size(one) for one in shared)
        hot.shared_tokens = history.sum_of(iter(shared)).tokens(hot.scale)
        return _ready(hot, snapshot)

    async def refresh(self, old: HotSession) -> HotSession:
        """A copy as new as Valkey's, made from an older one: only the log's tail is read, and parts that changed."""
        keys = Keys(old.tenant, old.session)
        snapshot = await self._snapshot(keys, old.history.revision)
        is_known = descends(snapshot.token(b"version"), old.version) and snapshot.links == old.links
        if snapshot.token(b"incarnation") != old.incarnation or not is_known:
            return await self.load(keys)
        has_gaps = await self._append(keys, old.history, snapshot)
        hot = self._copy(keys, snapshot, old.history, old.segments)
        hot.announced = old.announced
        hot.shared_bytes, hot.shared_tokens = old.shared_bytes, old.shared_tokens
        if has_gaps or hot.void_at != old.void_at:
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
            links=snapshot.links,
            shared=snapshot.number(b"shared"),
        )

    async def _append(self, keys: Keys, history: History, snapshot: Snapshot) -> bool:
        """Takes in the log's tail; whether some of it is erased."""
        revision, has_gaps = snapshot.number(b"revision"), False
        if history.revision < snapshot.number(b"shared"):
            await self._append_shared(keys, history, snapshot.number(b"shared"))
        rows = snapshot.rows
        while rows:
            has_gaps |= _take(history, rows, revision)
            if history.revision >= revision or len(rows) < self._settings.log_page_count_max:
                break
            first = rows[-1].sequence + 1
            rows = await self._log.rows(keys, first, revision, self._settings.log_page_count_max, with_bodies=False)
        # Erased ones at the log's end have no row of their own.
        return _take(history, (), revision) or has_gaps

    async def _append_shared(self, keys: Keys, history: History, shared: int) -> None:
        count = self._settings.log_page_count_max
        while history.revision < shared:
            first = history.revision + 1
            rows = await self._log.rows(keys, first, shared, count, with_bodies=False)
            _take(history, rows, shared)
            if len(rows) < count:
                _take(history, (), shared)

    async def _read_void(self, keys: Keys, hot: HotSession) -> None:
        turns: set[int] = set()
        for origin, incarnation, last, last_turn in _origins(keys, hot):
            async for member in self._log.void(origin, incarnation):
                if member.startswith(b"t"):
                    turns.update(turn for turn in (int(member[1:]),) if turn <= last_turn)
                else:
                    sequence, size = (int(number) for number in member[1:].split(b":"))
                    if sequence <= last:
                        hot.history.erase(sequence, size)
        hot.history.void_turns(turns)

    async def _read_counts(self, keys: Keys, hot: HotSession) -> None:
        if not hot.tokenizer:
            return
        for origin, incarnation, last, _ in _origins(keys, hot):
            async for number, value in self._log.counts(origin, incarnation):
                sequence = int(number)
                counted_by, tokens = count_of(value)
                if counted_by == hot.tokenizer and sequence <= last:
                    hot.history.set_count(sequence, tokens)

    async def _read_summaries(self, keys: Keys, hot: HotSession) -> None:
        for origin, incarnation, last, _ in _origins(keys, hot):
            async for header in self._log.summaries(origin, incarnation):
                summary = summary_of(header)
                if summary.last <= last:
                    hot.summarise(summary)


def _take(history: History, rows: Sequence[Row], revision: int) -> bool:
    """Appends rows; numbers without one belong to fragments that were erased: whether there are any."""
    before = history.revision
    for row in rows:
        while history.revision + 1 < row.sequence:
            history.append_erased()
        header = fragment_pb2.Fragment.FromString(row.header)
        history.append(header.digest, row.size, header.turn, header.pinned)
    if not rows:
        while history.revision < revision:
            history.append_erased()
    return history.revision - before > len(rows)


def _origins(keys: Keys, hot: HotSession) -> Iterator[tuple[Keys, bytes, int, int]]:
    """Where a session's parts lie, oldest ancestor first: keys, incarnation, last sequence and turn that count."""
    for link in hot.links:
        yield ancestor(keys, link), link.incarnation, link.last, link.last_turn
    yield keys, b"", hot.history.revision, hot.turn_count


def _ready(hot: HotSession, snapshot: Snapshot) -> HotSession:
    base = base_of(snapshot.meta.get(b"window"))
    if hot.shared:
        past = Past(hot.history, hot.summaries.values(), hot.history.revision + 1, hot.scale)
        base = rebase_on(base, past)
    hot.window = Window(base, hot.history)
    hot.settle()
    return hot
