"""Erasing a session wherever it lies, in an order that bears a crash at every step.

The janitor is told first, then nobody sees the session any more, and its keys go last: what broke off is found and
gone on with by the janitor, by the next delete, or by whoever makes a session of the same name.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import deletion_pb2, session_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.keys import Keys
from context_store.log.links import Link, links_of, without
from context_store.session.fork_notes import fork_name, fork_of
from context_store.store import StaleError, Store, now
from context_store.window.epoch import Past, rebase_on
from services.collections import collection_of
from services.cuts import ESTIMATE_BYTES_PER_TOKEN
from services.errors import IsthmusError, NotFound

Erasure: TypeAlias = deletion_pb2.DeletionReceipt.Erasure

# Takes back what the compressor was asked for of these segments of a session.
CancelJobs: TypeAlias = Callable[[str, str, Sequence[tuple[int, int]]], Awaitable[None]]

# A deletion that has not come to its end by then has died.
RESUME_MS: Final = 10_000
# What the keys of `Keys.all` hold, in the same order.
_KINDS: Final = (
    "meta",
    "log",
    "turns",
    "requests",
    "output",
    "void",
    "counts",
    "summaries",
    "summaries",
    "documents",
    "vectors",
    "objects",
    "forks",
)


class Deletions:
    """The one way in which sessions go: deleted, expired, or never finished."""

    def __init__(self, store: Store, cancel_jobs: CancelJobs) -> None:
        self._store = store
        self._indexes = store.tiers.indexes
        self._objects = store.tiers.objects
        self._cancel_jobs = cancel_jobs
        # What else this shard has of sessions in memory, by kind: forgotten, each says about how many bytes it had.
        self.held: dict[str, Callable[[Keys], int]] = {}

    async def delete(self, keys: Keys, etag: str = "") -> deletion_pb2.DeletionReceipt:
        """Erases a session. NOT_FOUND if there is none, ETAG_MISMATCH if the etag is set and old."""
        segments = await self._waiting(keys)
        # Before it is hidden, as nobody knows its segments afterwards; and after, as no more can come then.
        await self._cancel_jobs(keys.tenant, keys.session, segments)
        receipt = await self._delete(keys, b"", etag, None)
        if receipt is None:
            raise NotFound(f"sessions/{keys.session}")
        await self._cancel_jobs(keys.tenant, keys.session, segments)
        _note(receipt, "jobs", "jobs", len(segments))
        return receipt

    async def expire(self, keys: Keys, touched_ms: int) -> bool:
        """Erases a session that was last written at `touched_ms`; False if it was written since."""
        return await self._delete(keys, b"", "", touched_ms) is not None

    async def resume(self, keys: Keys) -> int:
        """Goes on with a deletion, or erases an import, that broke off; in how many ms to look again, 0 for never."""
        incarnation, is_seen, _ = await self._store.log.presence(keys)
        if not incarnation:
            await self._unlist(keys)
        elif not is_seen:
            reply = await self._store.log.hide_session(keys, b"", "", None)
            if reply.outcome == "IMPORTING":
                return int(reply.values[0])
            if reply.outcome == "HIDDEN":
                await self._erase(keys, bytes(reply.values[0]), links_of(reply.values[1]), bytes(reply.values[2]))
        return 0

    async def relist(self, keys: Keys) -> None:
        """Puts a session that is there back into lists: the deletion of one that had its id before may take it out."""
        if (await self._store.log.presence(keys))[1]:
            await self._store.log.enter_tenant(keys, 0)
            await self._indexes.touch([keys])

    async def discard(self, keys: Keys, incarnation: bytes) -> None:
        """Erases a session that this caller was making: of this incarnation and no other."""
        await self._delete(keys, incarnation, "", None)

    async def _delete(
        self, keys: Keys, incarnation: bytes, etag: str, touched_ms: int | None
    ) -> deletion_pb2.DeletionReceipt | None:
        if not (await self._store.log.presence(keys))[0]:
            return None
        place = await self._indexes.note_due(keys, keys.member, RESUME_MS)
        try:
            reply = await self._store.log.hide_session(keys, incarnation, etag, touched_ms)
        except NotFound:
            await self._indexes.remove(place)
            return None
        if reply.outcome == "ETAG":
            raise etag_mismatch(keys)
        if reply.outcome != "HIDDEN":
            return None
        receipt = await self._erase(keys, bytes(reply.values[0]), links_of(reply.values[1]), bytes(reply.values[2]))
        # Last: whoever dies before is gone on with. Not if it was noted for something else meanwhile.
        await self._indexes.remove(place)
        return receipt

    async def _erase(
        self, keys: Keys, incarnation: bytes, links: Sequence[Link], stored: bytes
    ) -> deletion_pb2.DeletionReceipt:
        receipt = deletion_pb2.DeletionReceipt(name=f"sessions/{keys.session}")
        await self.forget(keys, receipt)
        receipt.forks.extend(await self._cut_forks(keys, incarnation))
        _note(receipt, "valkey", "forks", await self._leave_ancestors(keys, incarnation, links, stored))
        await self._erase_keys(keys, incarnation, receipt)
        _note(receipt, "valkey", "index", await self._unlist(keys))
        receipt.delete_time.CopyFrom(now())
        return receipt

    async def _unlist(self, keys: Keys) -> int:
        """Takes what is gone out of lists, but not a new session of its id; how many entries there were."""
        count = await self._store.log.leave_tenant(keys)
        await self._indexes.forget(keys)
        # Lists lie in other slots than the session, so nothing changes both at once.
        await self.relist(keys)
        return count

    async def forget(self, keys: Keys, receipt: deletion_pb2.DeletionReceipt) -> None:
        """Drops what this shard holds of a session in memory."""
        store = self._store
        async with store.sessions.hold(keys) as slot:
            if slot.hot:
                _note(receipt, store.member_id, "hot_copy", 1, slot.hot.memory_bytes)
            slot.hot = None
        await store.events.forget(keys)
        store.tiers.touches.forget(keys)
        store.usage.forget(keys)
        _note(receipt, store.member_id, "texts", *store.bodies.drop(keys))
        for kind, forget in self.held.items():
            size = forget(keys)
            _note(receipt, store.member_id, kind, 1 if size else 0, size)

    async def _waiting(self, keys: Keys) -> list[tuple[int, int]]:
        """Segments whose summaries may be on order."""
        if collection_of(keys.session):
            return []
        (shown,) = await self._store.log.listed([keys])
        if shown is None or self._is_summarised(shown):
            return []
        try:
            # Not as others read it, which would have its segments announced.
            async with self._store.sessions.hold(keys) as slot:
                hot = await self._store.sessions.fresh(slot)
        except NotFound:
            return []
        segments = (hot.segments[index] for index in range(len(hot.segments)))
        return [segment for segment in segments if hot.is_unsummarised(segment)]

    def _is_summarised(self, shown: session_pb2.Session) -> bool:
        """Whether a session that is an object has about a summary a segment: then it is not worth its thaw."""
        segment_bytes = ESTIMATE_BYTES_PER_TOKEN * self._store.settings.segment_tokens
        return shown.tier == session_pb2.TIER_OBJECT and shown.summary_count >= shown.text_bytes // segment_bytes

    async def _erase_keys(self, keys: Keys, incarnation: bytes, receipt: deletion_pb2.DeletionReceipt) -> None:
        while True:
            await self._erase_objects(keys, incarnation, receipt)
            reply = await self._store.log.erase_session(keys, incarnation)
            if reply.outcome != "OBJECTS":
                break
        sums = [int(value) for value in reply.values]
        for kind, count, size in zip(_KINDS, sums[::2], sums[1::2], strict=False):
            _note(receipt, "valkey", kind, count, size)

    async def _erase_objects(self, keys: Keys, incarnation: bytes, receipt: deletion_pb2.DeletionReceipt) -> None:
        names = await self._store.log.object_names(keys)
        if not await self._is_there(keys, incarnation):
            return
        for name in names:
            size = await self._objects.delete(name)
            if size:
                # One that was not there may still be on its way: then the janitor has to look at it.
                await self._indexes.remove(await self._indexes.note_due(keys, name, 0))
            await self._store.log.forget_object(keys, name)
            _note(receipt, "objects", "objects", 1, size)

    async def _is_there(self, keys: Keys, incarnation: bytes) -> bool:
        """Whether what was read before is of this incarnation: another deletion may have made room for the next."""
        return (await self._store.log.presence(keys))[0] == incarnation

    async def _leave_ancestors(self, keys: Keys, incarnation: bytes, links: Iterable[Link], stored: bytes) -> int:
        names = {link.session for link in links}
        parent = session_pb2.Session.FromString(stored).parent
        if parent:
            names.add(parent.removeprefix("sessions/"))
        note = fork_name(keys, incarnation)
        return sum([await self._store.log.forget_fork(Keys(keys.tenant, name), note) for name in sorted(names)])

    async def _cut_forks(self, keys: Keys, incarnation: bytes) -> list[str]:
        notes = await self._store.log.forks(keys)
        if not await self._is_there(keys, incarnation):
            return []
        cut = []
        for note in notes:
            fork, its_incarnation = fork_of(note, keys.tenant)
            if await self.cut(fork, its_incarnation, keys, incarnation):
                cut.append(f"sessions/{fork.session}")
        return cut

    async def cut(self, fork: Keys, its_incarnation: bytes, keys: Keys, incarnation: bytes) -> bool:
        """Takes from a fork the past that it has of a session which is erased; False if it is gone by now."""

        async def change(slot: Slot, hot: HotSession) -> bool:
            if hot.incarnation != its_incarnation:
                return False
            # The ancestor is hidden: a copy that is read now has none of its past.
            slot.hot = None
            hot = await self._store.sessions.current(slot)
            links = without(hot.links, keys.session, incarnation)
            own = session_pb2.Session()
            own.CopyFrom(hot.own)
            if own.parent == f"sessions/{keys.session}":
                own.ClearField("parent")
                own.ClearField("parent_turn")
            if links == hot.links and own == hot.own:
                return True
            own.etag = secrets.token_hex(8)
            gone = [one for one in hot.summaries.values() if any(_overlap(one.first, one.last, hot, links))]
            for summary in gone:
                hot.erase_summary(summary)
            past = Past(hot.history, hot.summaries.values(), hot.history.revision + 1, hot.scale)
            base = rebase_on(hot.window.base, past)
            slot.hot = None
            reply = await self._store.log.cut_fork(fork, hot.version, links, own, base, [one.name for one in gone])
            if reply.outcome == "STALE":
                raise StaleError
            return True

        try:
            is_cut = await self._store.write(fork, change)
        except NotFound:
            return False
        self._store.bodies.drop(fork)
        return is_cut


def etag_mismatch(keys: Keys) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_ETAG_MISMATCH,
        f"sessions/{keys.session}: the etag is not the present one; expected the etag of a fresh read",
    )


def _overlap(first: int, last: int, hot: HotSession, left: Sequence[Link]) -> Iterable[bool]:
    """For each link that a fork loses, whether it has something of `first` to `last`."""
    return (link.first <= last and first <= link.last for link in hot.links if link not in left)


def _note(receipt: deletion_pb2.DeletionReceipt, place: str, kind: str, count: int, size: int = 0) -> None:
    """Adds to what the receipt says; nothing for nothing."""
    if not count:
        return
    for known in receipt.erasures:
        if (known.place, known.kind) == (place, kind):
            known.count += count
            known.bytes += size
            return
    receipt.erasures.add(place=place, kind=kind, count=count, bytes=size)
