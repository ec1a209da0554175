"""What an API key may allow. Which call needs which is the gateway's table."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Final


class Scope(Enum):
    """One kind of call."""

    # Generating text: turns, run and cancelled.
    TURNS = "turns"
    # Reading what is stored: sessions, their logs, turns and documents.
    SESSIONS_READ = "sessions.read"
    # Making, changing and erasing it outside of a turn.
    SESSIONS_WRITE = "sessions.write"
    # Everything, also what a later release adds.
    ADMIN = "admin"


DEFAULT: Final = (Scope.TURNS, Scope.SESSIONS_READ, Scope.SESSIONS_WRITE)


def allows(scopes: Collection[Scope], needed: Scope | None) -> bool:
    """Whether a key with these scopes may make a call that needs this one; None is a call that any key may make."""
    return needed is None or needed in scopes or Scope.ADMIN in scopes
