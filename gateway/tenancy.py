"""Whose rpc it is: determined once, before it is served, for the task that serves it. HTTP has it in `Edge.tenant`."""

from __future__ import annotations

from contextvars import ContextVar

_tenant: ContextVar[str] = ContextVar("isthmus_tenant")


def enter(tenant: str) -> None:
    """Makes this the tenant of the rpc being served."""
    _tenant.set(tenant)


def tenant() -> str:
    """The tenant of the rpc being served. LookupError where nobody has let it in: better none than a wrong one."""
    return _tenant.get()
