"""Limits at the gRPC edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc.aio

from gateway import tenancy
from gateway.access.needs import SERVICE
from gateway.limits import call
from gateway.limits.address import caller_address, host_of
from gateway.limits.headers import headers
from gateway.limits.limiter import Limiter

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Admit: TypeAlias = Callable[[str, Context], Awaitable[None]]
# A turn takes its own request, together with its tokens; to end one is always free.
_UNCOUNTED: Final = frozenset({f"{SERVICE}RunTurn", f"{SERVICE}CancelTurn"})


def limiting(admit: Admit, limiter: Callable[[], Limiter]) -> Admit:
    """What a server does before it serves an rpc: lets it in, then takes a request of its callers' limits."""

    async def limited(method: str, context: Context) -> None:
        limits = limiter()
        metadata = context.invocation_metadata() or ()
        forwarded = [str(value) for key, value in metadata if key == "x-forwarded-for"]
        call.enter(caller_address(host_of(context.peer() or ""), forwarded, limits.proxies_trusted))
        await admit(method, context)
        if method not in _UNCOUNTED:
            await limits.request(tenancy.tenant())

    return limited


async def tell(context: Context) -> None:
    """Says what the call's callers have left, in the metadata before its first answer."""
    told = headers(call.current().standing)
    if told:
        await context.send_initial_metadata(tuple(told.items()))
