"""Counts and times of the HTTP edge, and `/metrics` in Prometheus's format."""

from __future__ import annotations

import time
from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.metrics import SECONDS


class HttpMetrics:
    """The HTTP edge's part of the gateway's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests = Counter(
            "isthmus_http_requests", "HTTP requests answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "isthmus_http_request_seconds",
            "From a request's first byte to its answer's last.",
            ("method", "route"),
            buckets=SECONDS,
            registry=registry,
        )
        self.open_requests = Gauge("isthmus_http_requests_open", "HTTP requests being answered now.", registry=registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def exposition(self) -> bytes:
        """Everything that the gateway counts, as text."""
        return generate_latest(self._registry)


class Measured:
    """Counts and times every request of the application inside."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request through."""
        began = time.monotonic()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.open_requests.track_inprogress():
            try:
                await self._app(scope, receive, watch)
            finally:
                self._metrics.answered(method_of(scope), route_of(scope), status, time.monotonic() - began)


def method_of(scope: Scope) -> str:
    """The request's method; what is none of HTTP's is `other`, so that nobody can make labels without end."""
    method = str(scope.get("method", ""))
    return method if method in _METHODS else "other"


def route_of(scope: Scope) -> str:
    """The template of the path that was asked for, such as `/v1/responses/{response_id}`."""
    return str(scope.get("path_template") or "unmatched")


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@get("/metrics", include_in_schema=False)
async def metrics(measures: NamedDependency[HttpMetrics]) -> Response[bytes]:
    """What Prometheus scrapes."""
    return Response(measures.exposition(), media_type=CONTENT_TYPE_LATEST)
