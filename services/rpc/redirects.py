"""Whether the rpc being served was sent here on purpose: by a redirect, or past a member that does not answer.

Such a call is served and not redirected again, so that two members whose views differ cannot send it to and fro.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

KEY: Final = "isthmus-redirected"
METADATA: Final = ((KEY, "1"),)

_redirected: ContextVar[bool] = ContextVar("isthmus_redirected", default=False)


def enter(metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
    """Takes from a request's metadata whether it was redirected, for the task that serves it."""
    _redirected.set(any(key == KEY for key, _ in metadata or ()))


def is_redirected() -> bool:
    """Whether the caller of the rpc being served says that it was redirected."""
    return _redirected.get()
