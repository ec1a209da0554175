"""Sessions as OpenAI's edge keeps them: metadata in the labels, and which of its two kinds of object made them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import structlog
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2

from gateway.http.edge import Edge
from gateway.http.messages import RESERVED_PREFIX
from services.errors import IsthmusError

_ORIGIN = f"{RESERVED_PREFIX}origin"
_log = structlog.get_logger(__name__)


class Origin(Enum):
    """What a session was made for: a response of its own, or a conversation. Those of gRPC are conversations too."""

    RESPONSES = "responses"
    CONVERSATIONS = "conversations"


def labels_of(metadata: Mapping[str, str], origin: Origin) -> dict[str, str]:
    """The labels of a new session with this metadata."""
    return {**metadata, _ORIGIN: origin.value}


def labels_with(session: session_pb2.Session, metadata: Mapping[str, str]) -> dict[str, str]:
    """The session's labels with this metadata in place of what it had; the mesh's own stay."""
    return {**metadata, **{key: value for key, value in session.labels.items() if key.startswith(RESERVED_PREFIX)}}


def metadata_of(session: session_pb2.Session) -> dict[str, str]:
    """The client's own labels."""
    return {key: value for key, value in session.labels.items() if not key.startswith(RESERVED_PREFIX)}


def origin_of(session: session_pb2.Session) -> Origin:
    """What the session was made for."""
    return Origin.RESPONSES if session.labels.get(_ORIGIN) == Origin.RESPONSES.value else Origin.CONVERSATIONS


async def open_session(edge: Edge, session: str, labels: Mapping[str, str], may_exist: bool) -> session_pb2.Session:
    """A new session; or, where a retry may find its own, the one that is there."""
    try:
        return await edge.backend.create_session(edge.tenant, session, session_pb2.Session(labels=labels))
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS or not may_exist:
            raise
        return await edge.backend.get_session(edge.tenant, session)


async def relabel(edge: Edge, session: str, labels: Mapping[str, str]) -> session_pb2.Session:
    """Replaces a session's labels."""
    changed = session_pb2.Session(labels=labels)
    return await edge.backend.update_session(edge.tenant, session, changed, paths=["labels"])


async def erase(edge: Edge, session: str) -> None:
    """Takes a session away behind its answer. One that stays is only noted: nobody has its id."""
    try:
        await edge.backend.delete_session(edge.tenant, session)
    except IsthmusError as error:
        _log.warning("session_not_erased", session=session, error=str(error))
