"""How forks are noted with the sessions whose past they share. Pure."""

from __future__ import annotations

from typing import Final

from context_store.log.keys import Keys

# From a fork's note on, so long it may take until it is there.
MAKING_MS_MAX: Final = 10_000


def fork_name(keys: Keys, incarnation: bytes) -> str:
    """The name of a fork's note."""
    return f"{keys.session}:{incarnation.hex()}"


def fork_of(note: bytes, tenant: str) -> tuple[Keys, bytes]:
    """(keys, incarnation) of the fork that a note is about."""
    session, _, incarnation = note.decode().partition(":")
    return Keys(tenant, session), bytes.fromhex(incarnation)


def is_being_made(noted_ms: int, now_ms: int) -> bool:
    """Whether a fork that is not there may still come."""
    return now_ms - noted_ms < MAKING_MS_MAX
