"""The log itself: append outside a turn, list, stream, erase."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from hashlib import blake2b

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.fragments import Draft
from context_store.log.keys import Keys
from context_store.session.erasing import check_free
from context_store.session.page_tokens import write as write_page_token
from context_store.store import (
    Store,
    entries,
    fragments,
    keys_of,
    now,
    read_page_token,
)
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
            check_free(keys, reply)
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
