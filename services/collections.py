"""Collections: what sessions of the mesh's own are for, as the part of their id before its dot says. Pure.

A user's session has no dot in its id, and no edge takes one from outside: nobody reaches a collection by naming it.
"""

from __future__ import annotations

from typing import Final

LIBRARY: Final = "library"
FILE: Final = "file"
BOOKMARK: Final = "bookmark"
NAMES: Final = (LIBRARY, FILE, BOOKMARK)
# An id in the store.
ID: Final = rf"(?:(?:{'|'.join(NAMES)})\.)?[a-z0-9][a-z0-9-]{{0,62}}"


def collection_of(session: str) -> str:
    """The collection that a session's id is of, empty for a user's."""
    name, dot, _ = session.partition(".")
    return name if dot else ""


def member(collection: str, own: str) -> str:
    """The session's id in the store, of its id within the collection."""
    return f"{collection}.{own}" if collection else own


def own_id(session: str) -> str:
    """The id within the collection."""
    return session.rpartition(".")[2]
