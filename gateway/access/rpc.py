"""The gate before each rpc."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc.aio

from gateway import tenancy
from gateway.access import needs
from gateway.access.gate import Call, Gate

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_METADATA: Final = "authorization"


def admitting(gate: Callable[[], Gate]) -> Callable[[str, Context], Awaitable[None]]:
    """What a server does before it serves an rpc: determines its tenant, or raises what the gate raises."""

    async def admit(method: str, context: Context) -> None:
        shown = [_text(value) for key, value in context.invocation_metadata() or () if key == _METADATA]
        call = Call(method.removeprefix("/"), needs.of_rpc(method), shown, context.peer() or "")
        tenancy.enter(await gate().tenant_of(call))

    return admit


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
