"""Which turn left a conversation in which state: kept in the store, so that any gateway finds it.

A bookmark is a session without messages, in a collection of its own and named by the digest of the state, whose label
names the turn. It says nothing that was said, and it expires: whoever goes on later than that sends all of the history
anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2

from gateway.http.edge import Edge
from gateway.http.ids import ResponseId, parse_response
from gateway.http.messages import RESERVED_PREFIX
from gateway.http.sessions import relabel
from services import collections
from services.errors import IsthmusError

_TURN: Final = f"{RESERVED_PREFIX}turn"
_BYTES: Final = f"{RESERVED_PREFIX}bytes"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """The turn that left a conversation in some state, and the UTF-8 bytes of its session's texts by then.

    They are not those of what the client sends: the session also tells of functions, and has calls as the model wrote
    them.
    """

    turn: ResponseId
    text_bytes: int


async def find(edge: Edge, state: bytes) -> Bookmark | None:
    """The turn that left some conversation in this state; its session may be changed since, or gone."""
    try:
        bookmark = await edge.backend.get_session(edge.tenant, _name(state))
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND:
            raise
        return None
    turn, text_bytes = bookmark.labels.get(_TURN), bookmark.labels.get(_BYTES, "")
    return Bookmark(parse_response(turn, _TURN), int(text_bytes)) if turn and text_bytes.isdecimal() else None


async def put(edge: Edge, state: bytes, turn: ResponseId, text_bytes: int) -> None:
    """Notes the turn, in place of another one that led to the same state. Where it fails, only time is lost later."""
    bookmark = session_pb2.Session(labels={_TURN: str(turn), _BYTES: str(text_bytes)})
    bookmark.ttl.FromMilliseconds(edge.settings.chat_bookmark_ms)
    try:
        await _put(edge, _name(state), bookmark)
    except IsthmusError as error:
        _log.warning("bookmark_not_put", turn=str(turn), error=str(error))


async def _put(edge: Edge, name: str, bookmark: session_pb2.Session) -> None:
    try:
        await edge.backend.create_session(edge.tenant, name, bookmark)
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
            raise
        await relabel(edge, name, bookmark.labels)


def _name(state: bytes) -> str:
    return collections.member(collections.BOOKMARK, state.hex())
