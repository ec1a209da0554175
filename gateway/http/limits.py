"""Limits at the HTTP edge."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Guard, Message, Receive, Scope, Send

from gateway.access import needs
from gateway.http.metrics import method_of, route_of
from gateway.limits import call
from gateway.limits.address import caller_address
from gateway.limits.admission import Admission
from gateway.limits.headers import headers
from gateway.limits.limiter import Limiter
from services.errors import InvalidField

Connection: TypeAlias = ASGIConnection[Any, Any, Any, Any]
USER_BYTES_MAX: Final = 256
# They take their own request, together with their tokens.
_TURNS: Final = frozenset({"POST /v1/responses", "POST /v1/chat/completions"})
_EMBEDDINGS: Final = "POST /v1/embeddings"
# To end a turn is always free.
_CANCEL: Final = "POST /v1/responses/{response_id}/cancel"


class Told:
    """Notes where each request comes from, and puts what its callers have left into its answer's headers."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request through."""
        client = scope.get("client")
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        this = call.enter(caller_address(client[0] if client else "", forwarded, self._limiter.proxies_trusted))

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [(name.encode(), value.encode()) for name, value in headers(this.standing).items()]
                message["headers"] = [*message["headers"], *told]
            await send(message)

        await self._app(scope, receive, tell)


def limiting(admission: Admission) -> Guard:
    """Litestar's guard of every route, behind that of access: takes a request, or refuses before the body is read."""
    limiter = admission.limiter

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        template = route_of(connection.scope)
        route = f"{method_of(connection.scope)} {template}"
        if needs.is_open(template) or route == _CANCEL:
            return
        tenant: str = connection.state.tenant
        if route in _TURNS:
            admission.shed(tenant)
        elif route == _EMBEDDINGS:
            limiter.check(limiter.callers(tenant))
        else:
            await limiter.request(tenant)

    return guard


def user_of(user: str | None, safety_identifier: str | None = None) -> str:
    """Whom the client asks for, by whichever name OpenAI has for that; InvalidField for one that is too long."""
    param, name = ("safety_identifier", safety_identifier) if safety_identifier else ("user", user or "")
    size = len(name.encode())
    if size > USER_BYTES_MAX:
        raise InvalidField(param, f"is {size} bytes of UTF-8, expected at most {USER_BYTES_MAX}")
    return name
