"""The log itself: append outside a turn, list, stream, erase."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from hashlib import blake2b

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.fragments import Draft
from context_store.log.keys import Keys
from context_store.log.stored import Reply
from context_store.session.fork_notes import fork_of, is_being_made
from context_store.session.page_tokens import write as write_page_token
from context_store.store import (
    LapsedError,
    StaleError,
    Store,
    entries,
    fragments,
    keys_of,
    now,
    read_page_token,
    turn_in_progress,
)
from context_store.window.epoch import Base, Past, rebase_without
from services.digest import DIGEST_BYTES
from services.errors import InvalidField, IsthmusError, NotFound

PAGE_SIZE_DEFAULT = 100


class FragmentService:
    """Serves the fragments of a session. Those of turns that came to nothing are not shown."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, request: api.AppendMessagesRequest) -> api.AppendMessagesResponse:
        """Appends messages outside a turn; the fragments come back without text."""
        self._store.check_size(request.messages)
        keys = keys_of(request.key)
        # Without a request_id the call still has one of its own, so that a script sent twice appends once.
        request_id = request.request_id or f"append:{secrets.token_hex(16)}"
        digest = _digest(request)

        async def change(slot: Slot, hot: HotSession) -> tuple[HotSession, list[fragment_pb2.Fragment]]:
            parts = self._store.drafts(request.messages, 0)
            await self._check_quota(keys, hot, request_id, parts)
            created = now()
            reply = await self._store.log.append_messages(
                keys, request_id, digest, entries(parts, created), disk=hot.is_on_disk
            )
            _check_free(keys, reply)
            if reply.outcome == "REUSED":
                raise IsthmusError(
                    errors_pb2.ERROR_REASON_REQUEST_ID_REUSED,
                    f"request_id {request_id!r} was used with another body; expected the same body or a new id",
                )
            await self._store.appended(slot, hot, reply, parts)
            hot = await self._store.sessions.current(slot)
            first, last, incarnation = int(reply.values[2]), int(reply.values[3]), bytes(reply.values[4])
            if hot.incarnation != incarnation:
                # Deleted since, and made anew: what was appended went with it.
                raise NotFound(f"sessions/{keys.session}")
            if reply.outcome == "AGAIN":
                return hot, await self._store.bodies.get(keys, hot.incarnation, list(range(first, last + 1)))
            whole = fragments(hot.session, first, parts, created)
            self._store.bodies.keep(keys, hot.incarnation, whole)
            return hot, whole

        hot, whole = await self._store.write(keys, change, at_owner=True)
        return api.AppendMessagesResponse(fragments=shown(hot, whole, with_text=False))

    async def _check_quota(self, keys: Keys, hot: HotSession, request_id: str, parts: Sequence[Draft]) -> None:
        try:
            self._store.usage.check(keys, hot, sum(part.size for part in parts))
        except IsthmusError:
            # The request may have been carried out already, from when there was more room.
            if not await self._store.log.has_request(keys, request_id):
                raise

    async def list(self, request: api.ListFragmentsRequest) -> api.ListFragmentsResponse:
        """A page of the log in order, bounded by count and by bytes."""
        keys = keys_of(request.key)
        scope = f"fragments/{keys.tenant}/{keys.session}/{request.descending}"
        start = int(read_page_token(request.page_token, scope) or request.start_sequence)
        hot = await self._store.read(keys, at_owner=True)
        live = (
            hot.history.live_backwards(start or hot.history.revision)
            if request.descending
            else hot.history.live(start, hot.history.revision)
        )
        page, following = pages_of(
            hot, live, request.page_size or PAGE_SIZE_DEFAULT, self._store.settings.page_bytes_max
        )
        found = await self._store.bodies.get(keys, hot.incarnation, sorted(page))
        response = api.ListFragmentsResponse(
            fragments=shown(hot, reversed(found) if request.descending else found, with_text=True)
        )
        if following:
            response.next_page_token = write_page_token(scope, str(following))
        return response

    async def read(self, request: api.ReadFragmentsRequest) -> AsyncIterator[api.ReadFragmentsResponse]:
        """A range of the log with its text, in messages of at most 1 MiB."""
        keys = keys_of(request.key)
        if request.last_sequence < request.first_sequence:
            raise InvalidField("last_sequence", f"expected at least first_sequence, {request.first_sequence}")
        following = request.first_sequence
        while following:
            hot = await self._store.read(keys)
            live = hot.history.live(following, request.last_sequence)
            settings = self._store.settings
            page, following = pages_of(hot, live, settings.log_page_count_max, settings.chunk_bytes_max)
            found = await self._store.bodies.get(keys, hot.incarnation, page)
            yield api.ReadFragmentsResponse(fragments=shown(hot, found, with_text=True))

    async def delete(self, request: api.DeleteFragmentRequest) -> None:
        """Erases a fragment's content and the summaries that cover it; once more for an erased one changes nothing.

        A window that held it ends with its epoch. TURN_IN_PROGRESS while a turn is open.
        """
        keys, sequence = keys_of(request.key), request.sequence

        async def change(slot: Slot, hot: HotSession) -> None:
            if sequence > hot.history.revision:
                hot = await self._store.sessions.fresh(slot)
            if sequence > hot.history.revision:
                raise NotFound(f"sessions/{keys.session}/fragments/{sequence}")
            if hot.history.is_erased(sequence):
                confirmed = await self._store.log.confirm(keys, disk=hot.is_on_disk)
                if confirmed.version != hot.version:
                    # The copy may have seen an erasure that was lost with its primary.
                    raise StaleError
                return
            await self._delete_in_forks(keys, sequence)
            # The copy is changed before Valkey is, to plan on it: without a success it is given up.
            slot.hot = None
            place = await self._store.spill.note_erasure(keys, sequence)
            reply = await self._erase(keys, hot, sequence)
            _check_free(keys, reply)
            hot.version = reply.version
            slot.hot = hot
            if place:
                await self._store.spill.settle(keys, place)

        await self._store.write(keys, change)

    async def _delete_in_forks(self, keys: Keys, sequence: int) -> None:
        """Erases a fragment in the forks that share it: before it goes here, so that what breaks off is repeated."""
        for note, noted_ms in (await self._store.log.forks(keys)).items():
            fork, incarnation = fork_of(note, keys.tenant)
            try:
                await self._delete_in_fork(fork, incarnation, sequence)
            except NotFound:
                if is_being_made(int(noted_ms), time.time_ns() // 1_000_000):
                    raise IsthmusError(
                        errors_pb2.ERROR_REASON_REVISION_CONFLICT,
                        f"sessions/{fork.session}, a fork of sessions/{keys.session}, is being made; expected it there",
                    ) from None
                await self._store.log.forget_fork(keys, note)

    async def _delete_in_fork(self, keys: Keys, incarnation: bytes, sequence: int) -> None:
        async def change(slot: Slot, hot: HotSession) -> None:
            if hot.incarnation != incarnation:
                raise NotFound(f"sessions/{keys.session}")
            if sequence > hot.shared or hot.history.is_erased(sequence):
                return
            slot.hot = None
            reply = await self._erase(keys, hot, sequence)
            _check_free(keys, reply)

        await self._store.write(keys, change)

    async def _erase(self, keys: Keys, hot: HotSession, sequence: int) -> Reply:
        size = 0 if hot.history.is_void(sequence) else hot.history.size(sequence)
        is_held = hot.window.holds(sequence)
        gone = hot.erase(sequence)
        base: Base | None = None
        if is_held:
            past = Past(hot.history, hot.summaries.values(), hot.history.revision + 1, hot.scale)
            base = rebase_without(hot.window.base, past, sequence)
            hot.begin_epoch(base)
        hot.reannounce(sequence)
        self._store.bodies.forget(keys, hot.incarnation, sequence)
        return await self._store.log.erase_fragment(keys, hot.version, sequence, size, base, [one.name for one in gone])


def _check_free(keys: Keys, reply: Reply) -> None:
    if reply.outcome == "STALE":
        raise StaleError
    if reply.outcome == "BUSY":
        raise turn_in_progress(keys.session, int(reply.values[1]))
    if reply.outcome == "LAPSED":
        raise LapsedError(int(reply.values[1]))


def _digest(request: api.AppendMessagesRequest) -> bytes:
    if len(request.body_digest) == DIGEST_BYTES:
        return request.body_digest
    body = api.AppendMessagesRequest(messages=request.messages).SerializeToString(deterministic=True)
    return blake2b(request.body_digest + body, digest_size=DIGEST_BYTES).digest()


def pages_of(hot: HotSession, live: Iterable[int], count_max: int, bytes_max: int) -> tuple[list[int], int]:
    """What of `live` makes one page, and where the next one begins, 0 after the last."""
    page: list[int] = []
    size = 0
    for sequence in live:
        size += hot.history.size(sequence)
        if page and (len(page) >= count_max or size > bytes_max):
            return page, sequence
        page.append(sequence)
    return page, 0


def shown(hot: HotSession, found: Iterable[fragment_pb2.Fragment], *, with_text: bool) -> list[fragment_pb2.Fragment]:
    shown = []
    for fragment in found:
        one = fragment_pb2.Fragment()
        one.CopyFrom(fragment)
        one.tokens = hot.history.tokens(one.sequence)
        one.tokens_exact = hot.history.is_exact(one.sequence)
        if not with_text:
            one.ClearField("text")
        shown.append(one)
    return shown
