"""Sessions themselves: make, show, list, change."""

from __future__ import annotations

import secrets

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2

from context_store.log.keys import Keys
from context_store.log.stored import MARK_BYTES
from context_store.session.creating import Creator
from context_store.session.deletion import etag_mismatch
from context_store.session.filters import Filter, FilterError, parse
from context_store.session.page_tokens import write as write_page_token
from context_store.session.session_fields import MUTABLE, copy_fields, masked
from context_store.store import Store, keys_of, now, read_page_token
from services.errors import InvalidField, IsthmusError, NotFound

PAGE_SIZE_DEFAULT = 100
# Sessions that are read at once; each has at most 36 KiB of labels.
_GROUP_COUNT = 100


class SessionService:
    """Serves the resource `sessions/{session}`."""

    def __init__(self, store: Store, creator: Creator) -> None:
        self._store = store
        self._creator = creator

    async def create(self, request: api.CreateSessionRequest) -> session_pb2.Session:
        """Makes a session; ALREADY_EXISTS for a second one with the id."""
        keys = Keys(request.tenant, request.session_id)
        own = session_pb2.Session(name=f"sessions/{keys.session}", etag=secrets.token_hex(8))
        copy_fields(request.session, own, MUTABLE)
        own.create_time.CopyFrom(now())
        own.update_time.CopyFrom(own.create_time)
        await self._creator.create(keys, own, request.create_id or secrets.token_bytes(MARK_BYTES))
        return await self.made(keys) or own

    async def made(self, keys: Keys) -> session_pb2.Session | None:
        """A session that was made just now, as lists show it: its log is not read. It may be gone by another hand."""
        return (await self._store.log.listed([keys]))[0]

    async def get(self, request: api.GetSessionRequest) -> session_pb2.Session:
        """The session with all its sums."""
        return await self.shown(keys_of(request.key), at_owner=True)

    async def shown(self, keys: Keys, *, at_owner: bool = False) -> session_pb2.Session:
        """The same; of a session that was changed by this call, a redirect would change it twice."""
        (shown,) = await self._store.log.listed([keys])
        if shown is None:
            raise NotFound(f"sessions/{keys.session}")
        if shown.tier == session_pb2.TIER_OBJECT:
            # Its sums stay in Valkey: looking at it brings nothing back.
            await self._store.log.version(keys)
            return shown
        hot = await self._store.read(keys, at_owner=at_owner)
        shown.revision = hot.history.revision
        shown.turn_count = hot.turn_count
        shown.open_turn = hot.open.number if hot.open else 0
        shown.text_bytes = hot.history.text_bytes
        shown.tokens = hot.tokens()
        shown.summary_count = len(hot.summaries)
        shown.epoch = hot.window.base.epoch
        return shown

    async def list(self, request: api.ListSessionsRequest) -> api.ListSessionsResponse:
        """A page by id of those sessions of the tenant's collection that the filter takes.

        It looks at `list_scan_count_max` names at most, so a page may be short, or empty, and have a next one.
        """
        wanted = _filter(request.filter)
        scope = f"sessions/{request.tenant}/{request.collection}/{request.filter}"
        after = max(read_page_token(request.page_token, scope), wanted.after)
        left = self._store.settings.list_scan_count_max
        response = api.ListSessionsResponse()
        while not wanted.is_past(after):
            # Without a filter one name more than the page takes says whether there is a next one.
            wanting = left if wanted.conditions else _page_size(request) - len(response.sessions) + 1
            count = min(left, wanting, _GROUP_COUNT)
            names = await self._store.log.list_sessions(request.tenant, request.collection, after, count)
            listed = await self._store.log.listed([Keys(request.tenant, name) for name in names])
            for name, session in zip(names, listed, strict=True):
                if wanted.is_past(name):
                    return response
                if self._is_full(request, response):
                    left = 0
                    break
                after, left = name, left - 1
                # A name without a session is the trace of a crash while it was made: it is no session.
                if session and wanted.takes(session):
                    response.sessions.append(session)
            if not names:
                return response
            if left <= 0:
                response.next_page_token = write_page_token(scope, after)
                return response
        return response

    def _is_full(self, request: api.ListSessionsRequest, response: api.ListSessionsResponse) -> bool:
        is_long = response.ByteSize() > self._store.settings.page_bytes_max
        return is_long or len(response.sessions) >= _page_size(request)

    async def update(self, request: api.UpdateSessionRequest) -> session_pb2.Session:
        """Changes what the mask names, or without one what is set; ETAG_MISMATCH if an etag is sent and is old."""
        keys = keys_of(request.key)
        fields = masked(request.update_mask, request.session)
        for _ in range(self._store.settings.revision_retries_count_max):
            own = session_pb2.Session.FromString(await self._store.log.own(keys))
            _check_etag(keys, own.etag, request.session.etag)
            etag_read, own.etag = own.etag, secrets.token_hex(8)
            copy_fields(request.session, own, fields)
            own.update_time.CopyFrom(now())
            await self._store.tiers.note_ttl(keys, own)
            reply = await self._store.log.update_session(keys, etag_read, own)
            if reply.outcome == "UPDATED":
                return await self.shown(keys)
        raise IsthmusError(
            errors_pb2.ERROR_REASON_REVISION_CONFLICT, f"sessions/{keys.session} is changed by others all the time"
        )


def _page_size(request: api.ListSessionsRequest) -> int:
    return request.page_size or PAGE_SIZE_DEFAULT


def _filter(text: str) -> Filter:
    try:
        return parse(text)
    except FilterError as error:
        raise InvalidField("filter", str(error)) from error


def _check_etag(keys: Keys, etag: str, wanted: str) -> None:
    if wanted and wanted != etag:
        raise etag_mismatch(keys)
