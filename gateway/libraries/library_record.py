"""A library as its session keeps it. Pure; `now_s` is in seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isthmus.session.v1 import library_pb2, session_pb2

from gateway.libraries.places import plain_id
from services.errors import InvalidField

PREFIX: Final = "isthmus."
_DESCRIPTION: Final = f"{PREFIX}description"
# The ttl as it was asked for; the session's own also has in it how long after its last write it was searched.
_TTL: Final = f"{PREFIX}ttl_s"
_ACTIVE: Final = f"{PREFIX}active_s"
_MUTABLE: Final = ("display_name", "description", "labels", "ttl")
# A search puts the end off once such a share of the ttl has gone since the last one that did.
_TOUCHES_PER_TTL: Final = 24


@dataclass(frozen=True, slots=True)
class LibraryState:
    """A library, and when it was last used."""

    library: library_pb2.Library
    active_s: int
    expire_s: int


def library_of(session: session_pb2.Session, now_s: float) -> LibraryState | None:
    """The library of a session; None for one that is over."""
    labels = session.labels
    made = library_pb2.Library(
        name=f"libraries/{plain_id(session.name)}",
        display_name=session.display_name,
        description=labels.get(_DESCRIPTION, ""),
        labels={key: value for key, value in labels.items() if not key.startswith(PREFIX)},
        create_time=session.create_time,
        update_time=session.update_time,
        etag=session.etag,
        text_bytes=session.text_bytes,
    )
    touched_s = session.touch_time.seconds or session.create_time.seconds
    active_s = max(touched_s, session.create_time.seconds, int(labels.get(_ACTIVE, "0")))
    ttl_s = int(labels.get(_TTL, "0"))
    if not ttl_s:
        return LibraryState(made, active_s, 0)
    made.ttl.FromSeconds(ttl_s)
    made.expire_time.FromSeconds(active_s + ttl_s)
    return LibraryState(made, active_s, active_s + ttl_s) if now_s < active_s + ttl_s else None


def session_of(library: library_pb2.Library) -> session_pb2.Session:
    """The session of a library that is to be made. INVALID_FIELD for a label that is the mesh's own."""
    _check_labels(library.labels)
    labels = dict(library.labels)
    if library.description:
        labels[_DESCRIPTION] = library.description
    session = session_pb2.Session(display_name=library.display_name)
    if library.HasField("ttl"):
        labels[_TTL] = str(library.ttl.seconds)
        session.ttl.FromSeconds(library.ttl.seconds)
    session.labels.update(labels)
    return session


def changed(
    session: session_pb2.Session, library: library_pb2.Library, paths: Sequence[str], now_s: float
) -> session_pb2.Session:
    """The session's fields once these of the library, or all that are set, are changed; its etag is the one read."""
    unknown = [path for path in paths if path not in _MUTABLE]
    if unknown:
        raise InvalidField("update_mask", f"{unknown[0]!r} cannot be changed; expected any of {', '.join(_MUTABLE)}")
    fields = set(paths) or {name for name in _MUTABLE if _is_set(library, name)}
    _check_labels(library.labels)
    own = {key: value for key, value in session.labels.items() if key.startswith(PREFIX)}
    labels = {key: value for key, value in session.labels.items() if key not in own}
    after = session_pb2.Session(display_name=session.display_name, etag=session.etag)
    if "display_name" in fields:
        after.display_name = library.display_name
    if "labels" in fields:
        labels = dict(library.labels)
    if "description" in fields:
        _put(own, _DESCRIPTION, library.description)
    if "ttl" in fields:
        _put(own, _TTL, str(library.ttl.seconds) if library.HasField("ttl") else "")
    _set_ttl(after, session, own, now_s)
    after.labels.update({**labels, **own})
    return after


def touched(session: session_pb2.Session, now_s: float) -> session_pb2.Session | None:
    """The session's fields once a search has put its end off; None where that has been done lately, or is no matter."""
    ttl_s = int(session.labels.get(_TTL, "0"))
    active_s = max(session.touch_time.seconds, int(session.labels.get(_ACTIVE, "0")))
    if not ttl_s or now_s - active_s < ttl_s / _TOUCHES_PER_TTL:
        return None
    labels = {**session.labels, _ACTIVE: str(int(now_s))}
    after = session_pb2.Session(display_name=session.display_name, etag=session.etag)
    _set_ttl(after, session, labels, now_s)
    after.labels.update(labels)
    return after


def _set_ttl(after: session_pb2.Session, before: session_pb2.Session, labels: Mapping[str, str], now_s: float) -> None:
    """A session outlives its last write by its ttl: what has passed since then is added."""
    ttl_s = int(labels.get(_TTL, "0"))
    if ttl_s:
        active_s = int(labels.get(_ACTIVE, "0"))
        since_write_s = max(0, max(int(now_s), active_s) - before.touch_time.seconds)
        after.ttl.FromSeconds(ttl_s + since_write_s)


def _put(labels: dict[str, str], key: str, value: str) -> None:
    if value:
        labels[key] = value
    else:
        labels.pop(key, None)


def _is_set(library: library_pb2.Library, name: str) -> bool:
    return any(each.name == name for each, _ in library.ListFields())


def _check_labels(labels: Mapping[str, str]) -> None:
    for key in labels:
        if key.startswith(PREFIX):
            raise InvalidField(f"library.labels.{key}", f"begins with {PREFIX!r}, which is kept for the mesh")
