"""Sessions themselves: make, show, list, change, erase."""

from __future__ import annotations

import secrets

from google.protobuf import field_mask_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2

from context_store.keys import Keys
from context_store.page_tokens import write as write_page_token
from context_store.store import Store, keys_of, now, read_page_token
from services.errors import InvalidField, IsthmusError, NotFound

PAGE_SIZE_DEFAULT = 100
# Sessions that are read at once; each has at most 36 KiB of labels.
_GROUP_COUNT = 25
_MUTABLE = ("display_name", "labels", "window_tokens_max")


class SessionService:
    """Serves the resource `sessions/{session}`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, request: api.CreateSessionRequest) -> session_pb2.Session:
        """Makes a session; ALREADY_EXISTS for a second one with the id."""
        keys = Keys(request.tenant, request.session_id)
        own = session_pb2.Session(name=f"sessions/{keys.session}", etag=secrets.token_hex(8))
        _copy(request.session, own, _MUTABLE)
        own.create_time.CopyFrom(now())
        own.update_time.CopyFrom(own.create_time)
        reply = await self._store.log.create_session(keys, own)
        if reply.outcome == "EXISTS":
            raise IsthmusError(
                errors_pb2.ERROR_REASON_ALREADY_EXISTS, f"sessions/{keys.session} exists; expected an id that is free"
            )
        own.epoch = 1
        return own

    async def get(self, request: api.GetSessionRequest) -> session_pb2.Session:
        """The session with all its sums."""
        keys = keys_of(request.key)
        hot = await self._store.read(keys)
        shown = session_pb2.Session()
        shown.CopyFrom(hot.own)
        shown.revision = hot.history.revision
        shown.turn_count = hot.turn_count
        shown.open_turn = hot.open.number if hot.open else 0
        shown.text_bytes = hot.history.text_bytes
        shown.tokens = hot.tokens()
        shown.summary_count = len(hot.summaries)
        shown.epoch = hot.window.base.epoch
        return shown

    async def list(self, request: api.ListSessionsRequest) -> api.ListSessionsResponse:
        """A page of the tenant's sessions by id."""
        scope = f"sessions/{request.tenant}"
        size = request.page_size or PAGE_SIZE_DEFAULT
        after = read_page_token(request.page_token, scope)
        ids = await self._store.log.list_sessions(request.tenant, after, size + 1)
        response = api.ListSessionsResponse()
        taken = 0
        while taken < min(size, len(ids)) and response.ByteSize() <= self._store.settings.page_bytes_max:
            group = ids[taken : min(taken + _GROUP_COUNT, size)]
            metas = await self._store.log.metas([Keys(request.tenant, one) for one in group])
            # A name without a session is the trace of a crash while it was made: it is no session.
            response.sessions.extend(_listed(meta) for meta in metas if meta)
            taken += len(group)
        if taken < len(ids):
            response.next_page_token = write_page_token(scope, ids[taken - 1])
        return response

    async def update(self, request: api.UpdateSessionRequest) -> session_pb2.Session:
        """Changes what the mask names, or without one what is set; ETAG_MISMATCH if an etag is sent and is old."""
        keys = keys_of(request.key)
        fields = _masked(request.update_mask, request.session)
        for _ in range(self._store.settings.revision_retries_count_max):
            own = session_pb2.Session.FromString(await self._store.log.own(keys))
            _check_etag(keys, own.etag, request.session.etag)
            etag_read, own.etag = own.etag, secrets.token_hex(8)
            _copy(request.session, own, fields)
            own.update_time.CopyFrom(now())
            reply = await self._store.log.update_session(keys, etag_read, own)
            if reply.outcome == "UPDATED":
                return await self.get(api.GetSessionRequest(key=request.key))
        raise IsthmusError(
            errors_pb2.ERROR_REASON_REVISION_CONFLICT, f"sessions/{keys.session} is changed by others all the time"
        )

    async def delete(self, request: api.DeleteSessionRequest) -> None:
        """Erases every key of the session."""
        keys = keys_of(request.key)
        async with self._store.sessions.hold(keys) as slot:
            await self._store.log.version(keys)
            try:
                reply = await self._store.log.delete_session(keys, request.etag)
            except NotFound:
                # It was there a moment ago: this call's own script was sent twice, or another caller was as quick.
                return
            finally:
                slot.hot = None
            if reply.outcome == "ETAG":
                raise _etag_mismatch(keys)


def _copy(source: session_pb2.Session, target: session_pb2.Session, fields: tuple[str, ...]) -> None:
    for name in fields:
        target.ClearField(name)  # type: ignore[arg-type]
    picked = session_pb2.Session()
    field_mask_pb2.FieldMask(paths=fields).MergeMessage(source, picked)
    target.MergeFrom(picked)


def _masked(mask: field_mask_pb2.FieldMask, session: session_pb2.Session) -> tuple[str, ...]:
    unknown = [path for path in mask.paths if path not in _MUTABLE]
    if unknown:
        raise InvalidField("update_mask", f"{unknown[0]!r} cannot be changed; expected any of {', '.join(_MUTABLE)}")
    set_fields = {field.name for field, _ in session.ListFields()}
    return tuple(mask.paths) or tuple(name for name in _MUTABLE if name in set_fields)


def _check_etag(keys: Keys, etag: str, wanted: str) -> None:
    if wanted and wanted != etag:
        raise _etag_mismatch(keys)


def _etag_mismatch(keys: Keys) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_ETAG_MISMATCH,
        f"sessions/{keys.session}: the etag is not the present one; expected the etag of a fresh read",
    )


def _listed(meta: dict[str, bytes]) -> session_pb2.Session:
    shown = session_pb2.Session.FromString(meta["own"])
    shown.revision = int(meta["revision"])
    shown.turn_count = int(meta["turn_count"])
    shown.open_turn = int(meta["open_turn"])
    shown.epoch = int(meta["epoch"])
    shown.summary_count = int(meta["summaries"])
    return shown
