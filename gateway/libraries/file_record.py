"""A file as its session keeps it: name, purpose and size as labels. Pure; times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.session.v1 import session_pb2

from gateway.libraries.places import file_session, plain_id

_PREFIX: Final = "isthmus."
_PURPOSE: Final = f"{_PREFIX}purpose"
_BYTES: Final = f"{_PREFIX}bytes"
_EXPIRES_AFTER: Final = f"{_PREFIX}expires_after_s"
_MEDIA_TYPE: Final = f"{_PREFIX}media_type"


@dataclass(frozen=True, slots=True)
class File:
    """A file that was uploaded whole. `expire_s` is 0 for one that stays until it is deleted."""

    id: str
    filename: str
    media_type: str
    purpose: str
    size_bytes: int
    create_s: int
    expire_s: int = 0


def begun(filename: str, media_type: str, kept_ms: int) -> session_pb2.Session:
    """The session of an upload under way, which does not outlive its gateway for longer than `kept_ms`."""
    session = session_pb2.Session(display_name=filename, labels={_MEDIA_TYPE: media_type})
    session.ttl.FromMilliseconds(kept_ms)
    return session


def ended(media_type: str, purpose: str, size_bytes: int, expires_after_s: int) -> session_pb2.Session:
    """What is changed of it once it is whole."""
    labels = {_MEDIA_TYPE: media_type, _PURPOSE: purpose, _BYTES: str(size_bytes)}
    if not expires_after_s:
        return session_pb2.Session(labels=labels)
    session = session_pb2.Session(labels={**labels, _EXPIRES_AFTER: str(expires_after_s)})
    session.ttl.FromSeconds(expires_after_s)
    return session


def file_of(session: session_pb2.Session, now_s: float) -> File | None:
    """The file of a session; None for one that is not whole, or is over."""
    labels: Mapping[str, str] = session.labels
    if not labels.get(_PURPOSE):
        return None
    create_s = session.create_time.seconds
    expires_after_s = int(labels.get(_EXPIRES_AFTER, "0"))
    expire_s = create_s + expires_after_s if expires_after_s else 0
    if expire_s and now_s >= expire_s:
        return None
    return File(
        id=plain_id(session.name),
        filename=session.display_name,
        media_type=labels.get(_MEDIA_TYPE, ""),
        purpose=labels[_PURPOSE],
        size_bytes=int(labels.get(_BYTES, "0")),
        create_s=create_s,
        expire_s=expire_s,
    )


def list_filter(purpose: str, after: str) -> str:
    """The filter of a list's sessions: of one purpose if it is given, behind `after`."""
    conditions = [f'labels."{_PURPOSE}" = "{_quoted(purpose)}"'] if purpose else []
    if after:
        conditions.append(f'name > "sessions/{file_session(after)}"')
    return " AND ".join(conditions)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
