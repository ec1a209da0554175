"""Erasing fragments: their texts, the summaries that cover them, and what forks have of them."""

from __future__ import annotations

import time
from collections.abc import Collection

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.keys import Keys
from context_store.log.stored import Reply
from context_store.session.fork_notes import fork_of, is_being_made
from context_store.store import LapsedError, StaleError, Store, keys_of, turn_in_progress
from context_store.window.epoch import Base, Past, rebase_without
from context_store.window.summaries import SummaryRef
from services.collections import collection_of
from services.errors import InvalidField, IsthmusError, NotFound


class Eraser:
    """Erases parts of sessions for good. A window that held any of them ends with its epoch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def delete(self, request: api.DeleteFragmentRequest) -> None:
        """Erases one fragment; once more for an erased one changes nothing. TURN_IN_PROGRESS while a turn is open."""
        keys, sequence = keys_of(request.key), request.sequence
        if collection_of(keys.session):
            raise InvalidField("key.session", f"is {keys.session!r}; expected a user's session: delete its documents")

        async def change(slot: Slot, hot: HotSession) -> None:
            if sequence > hot.history.revision:
                hot = await self._store.sessions.fresh(slot)
            if sequence > hot.history.revision:
                raise NotFound(f"sessions/{keys.session}/fragments/{sequence}")
            await self._erase_here(keys, slot, hot, [sequence])

        await self._store.write(keys, change)

    async def erase(self, keys: Keys, incarnation: bytes, sequences: Collection[int]) -> None:
        """Erases fragments of this incarnation of a session, in one step here. TURN_IN_PROGRESS as above."""

        async def change(slot: Slot, hot: HotSession) -> None:
            if hot.incarnation != incarnation:
                raise NotFound(f"sessions/{keys.session}")
            if max(sequences) > hot.history.revision:
                hot = await self._store.sessions.fresh(slot)
            await self._erase_here(keys, slot, hot, sequences)

        await self._store.write(keys, change)

    async def _erase_here(self, keys: Keys, slot: Slot, hot: HotSession, sequences: Collection[int]) -> None:
        left = [one for one in sequences if not hot.history.is_erased(one)]
        if not left:
            confirmed = await self._store.log.confirm(keys, disk=hot.is_on_disk)
            if confirmed.version != hot.version:
                # The copy may have seen an erasure that was lost with its primary.
                raise StaleError
            return
        await self._erase_in_forks(keys, left)
        # The copy is changed before Valkey is, to plan on it: without a success it is given up.
        slot.hot = None
        # What lies in an object is a reply's, and replies are erased one by one.
        place = await self._store.spill.note_erasure(keys, left[0]) if len(left) == 1 else None
        reply = await self._erase(keys, hot, left)
        check_free(keys, reply)
        hot.version = reply.version
        slot.hot = hot
        if place:
            await self._store.spill.settle(keys, place)

    async def _erase_in_forks(self, keys: Keys, sequences: Collection[int]) -> None:
        """Erases fragments in the forks that share them: before they go here, so that what breaks off is repeated."""
        for note, noted_ms in (await self._store.log.forks(keys)).items():
            fork, incarnation = fork_of(note, keys.tenant)
            try:
                await self._erase_in_fork(fork, incarnation, sequences)
            except NotFound:
                if is_being_made(int(noted_ms), time.time_ns() // 1_000_000):
                    raise IsthmusError(
                        errors_pb2.ERROR_REASON_REVISION_CONFLICT,
                        f"sessions/{fork.session}, a fork of sessions/{keys.session}, is being made; expected it there",
                    ) from None
                await self._store.log.forget_fork(keys, note)

    async def _erase_in_fork(self, keys: Keys, incarnation: bytes, sequences: Collection[int]) -> None:
        async def change(slot: Slot, hot: HotSession) -> None:
            if hot.incarnation != incarnation:
                raise NotFound(f"sessions/{keys.session}")
            shared = [one for one in sequences if one <= hot.shared and not hot.history.is_erased(one)]
            if not shared:
                return
            slot.hot = None
            reply = await self._erase(keys, hot, shared)
            check_free(keys, reply)

        await self._store.write(keys, change)

    async def _erase(self, keys: Keys, hot: HotSession, sequences: Collection[int]) -> Reply:
        pairs = [(one, 0 if hot.history.is_void(one) else hot.history.size(one)) for one in sequences]
        is_held = any(hot.window.holds(one) for one in sequences)
        gone: list[SummaryRef] = []
        for sequence in sequences:
            gone += hot.erase(sequence)
            hot.reannounce(sequence)
            self._store.bodies.forget(keys, hot.incarnation, sequence)
        base: Base | None = None
        if is_held:
            past = Past(hot.history, hot.summaries.values(), hot.history.revision + 1, hot.scale)
            base = rebase_without(hot.window.base, past, set(sequences))
            hot.begin_epoch(base)
        return await self._store.log.erase_fragments(keys, hot.version, pairs, base, [one.name for one in gone])


def check_free(keys: Keys, reply: Reply) -> None:
    """Raises what an outcome other than success means: STALE, BUSY, LAPSED."""
    if reply.outcome == "STALE":
        raise StaleError
    if reply.outcome == "BUSY":
        raise turn_in_progress(keys.session, int(reply.values[1]))
    if reply.outcome == "LAPSED":
        raise LapsedError(int(reply.values[1]))
