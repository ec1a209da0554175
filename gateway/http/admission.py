"""Who gets in: nobody before the gateway is ready or while it drains, and only so many at once."""

from __future__ import annotations

import msgspec
from isthmus.errors.v1 import errors_pb2
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.http.errors import Problem, problem_of
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.lifecycle import Lifecycle, State

# What must answer whatever the state: it tells the state.
_ALWAYS = ("/healthz", "/health", "/metrics")


class Admitted:
    """Lets through at most `gateway.http_requests_count_max` requests at a time.

    `shares_port`: others take what is new, and what still comes in while it drains is served.
    """

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, lifecycle: Lifecycle, *, shares_port: bool = False
    ) -> None:
        self._app = app
        self._count_max = settings.http_requests_count_max
        self._lifecycle = lifecycle
        self._serves = {State.READY, State.DRAINING} if shares_port else {State.READY}
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request through, or refuses it with RetryInfo."""
        refusal = None if scope["path"] in _ALWAYS else self._refusal()
        if refusal is not None:
            await send_problem(send, problem_of(refusal, "", scope["path"]))
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1

    def _refusal(self) -> IsthmusError | None:
        state = self._lifecycle.state
        if state not in self._serves:
            message = f"this gateway is {state.value}; ask another one, or wait"
            return IsthmusError(errors_pb2.ERROR_REASON_NOT_READY, message)
        if self._count >= self._count_max:
            message = f"{self._count} requests are open, which is the bound; wait for some to end"
            return IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message)
        return None


async def send_problem(send: Send, problem: Problem) -> None:
    """Answers with an error outside of Litestar."""
    body = msgspec.json.encode(problem.body)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": False})
