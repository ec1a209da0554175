"""The gate before each HTTP request: behind the router, which knows the route, and before the body is read."""

from __future__ import annotations

from typing import Any, TypeAlias

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from gateway.access import needs
from gateway.access.gate import Call, Gate
from gateway.http.metrics import method_of, route_of

Connection: TypeAlias = ASGIConnection[Any, Any, Any, Any]


def guarding(gate: Gate) -> Guard:
    """Litestar's guard of every route: the request's tenant is `request.state.tenant` behind it."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        method, template = method_of(connection.scope), route_of(connection.scope)
        if needs.is_open(template):
            return
        shown = connection.headers.getall("authorization", [])
        call = Call(f"{method} {template}", needs.of_route(method, template), shown, _peer(connection))
        connection.state.tenant = await gate.tenant_of(call)

    return guard


def _peer(connection: Connection) -> str:
    client = connection.client
    return "" if client is None else f"{client.host}:{client.port}"
