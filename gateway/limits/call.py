"""What limits need to know of a call besides its tenant: kept for the task that serves it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from services.limits.standing import Standing


@dataclass(slots=True)
class LimitedCall:
    """A call at an edge. `address` is where it comes from, empty where that is not known; `is_counted` says that its
    request has been taken; `standing` is what its callers have left, for the headers of its answer.
    """

    address: str = ""
    is_counted: bool = False
    standing: Standing | None = None


_call: ContextVar[LimitedCall | None] = ContextVar("isthmus_limited_call", default=None)


def enter(address: str) -> LimitedCall:
    """Makes this the call that is served by the task, and by those that it starts."""
    call = LimitedCall(address)
    _call.set(call)
    return call


def current() -> LimitedCall:
    """The call being served; one from nowhere, where nobody has let it in."""
    return _call.get() or LimitedCall()
