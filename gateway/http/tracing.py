"""Each HTTP request is one server span, a child of the caller's if it sent a W3C `traceparent`."""

from __future__ import annotations

import re
import time
from typing import Final
from uuid import uuid4

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.http.metrics import method_of, route_of
from services.telemetry import current_trace_id, tracer

_propagator: Final = TraceContextTextMapPropagator()
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Traced:
    """Opens the span and tells it in the answer: `traceparent`, and `x-request-id` (the client's own, or the trace id).

    Also notes when the request's first byte came in, as `request.state.received_at`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request through."""
        scope.setdefault("state", {})["received_at"] = time.monotonic()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = method_of(scope)
        with tracer.start_as_current_span(
            method,
            context=_propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": scope["path"]},
        ) as span:
            answer = _Answer(span, send, _answer_headers(headers.get("x-request-id", "")))
            try:
                await self._app(scope, receive, answer)
            finally:
                span.update_name(f"{method} {route_of(scope)}")
                span.set_attribute("http.route", route_of(scope))


class _Answer:
    """The way out: adds the headers and notes the status."""

    def __init__(self, span: Span, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._span = span
        self._send = send
        self._headers = headers

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *self._headers]
            self._span.set_attribute("http.response.status_code", message["status"])
            if message["status"] >= 500:
                self._span.set_status(StatusCode.ERROR)
        await self._send(message)


def _answer_headers(asked: str) -> list[tuple[bytes, bytes]]:
    request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req_{current_trace_id() or uuid4().hex}"
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return [(name.encode(), value.encode()) for name, value in {"x-request-id": request_id, **carrier}.items()]
