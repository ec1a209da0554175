"""Counts and times of the HTTP edge, and `/metrics` in Prometheus's format."""

from __future__ import annotations

import time
from typing import Final

from isthmus.session.v1 import turn_pb2
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The gateway's own registry: several gateways may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Counter(
            "isthmus_http_requests", "HTTP requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "isthmus_http_request_seconds",
            "From a request's first byte to its answer's last.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "isthmus_http_requests_open", "HTTP requests being answered now.", registry=self.registry
        )
        self._turns = Counter("isthmus_http_turns", "Turns run over HTTP.", ("outcome",), registry=self.registry)
        self._ttft = Histogram(
            "isthmus_http_turn_ttft_seconds",
            "From a turn's first byte in to its first text out.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter("isthmus_http_tokens", "Tokens of turns done.", ("kind",), registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def turn_done(self, receipt: turn_pb2.Receipt) -> None:
        """A turn's reply is durable."""
        self._turns.labels("done").inc()
        self._ttft.observe(receipt.ttft_ms / 1000)
        tokens = receipt.tokens
        self._tokens.labels("new").inc(tokens.new_tokens)
        self._tokens.labels("reused").inc(tokens.reused_tokens)
        self._tokens.labels("cached").inc(tokens.cached_tokens)
        self._tokens.labels("output").inc(tokens.output_tokens)

    def turn_failed(self, reason: str) -> None:
        """A turn came to nothing; `reason` is one of the contract's, in small letters."""
        self._turns.labels(reason).inc()

    def exposition(self) -> bytes:
        """Everything, as text."""
        return generate_latest(self.registry)


class Measured:
    """Counts and times every request of the application inside."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
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
async def metrics(measures: NamedDependency[Metrics]) -> Response[bytes]:
    """What Prometheus scrapes."""
    return Response(measures.exposition(), media_type=CONTENT_TYPE_LATEST)
