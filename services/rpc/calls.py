"""What every outgoing call gets: a deadline, and a client span labelled with its hop.

The server's side is traced by opentelemetry-instrumentation-grpc. Its client interceptors end a unary call's span only
when the call is not cancelled, and a stream's only when it is read to its end, with a generator around each message.
A client's span is therefore made here, for all four kinds alike: it ends when the call does, however it does, and
calls come to their callers untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from opentelemetry import propagate, trace

from services.rpc import deadlines
from services.rpc.ended import ServerStatus
from services.telemetry import HOP, tracer

Details: TypeAlias = grpc.aio.ClientCallDetails
Proceed: TypeAlias = Callable[[Details, Any], Awaitable[Any]]


def client_interceptors(hop: str, deadline_s_default: float) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors of a channel, one a kind of rpc. Streams have no deadline but the one they are given."""
    calls = _Calls(hop)
    return [_UnaryUnary(calls, deadline_s_default), _UnaryStream(calls), _StreamUnary(calls), _StreamStream(calls)]


class _Calls:
    """Starts calls under spans that end with them."""

    def __init__(self, hop: str) -> None:
        self._hop = hop
        self._watches: set[asyncio.Task[None]] = set()

    async def start(self, proceed: Proceed, details: Details, request: Any, timeout_s: float | None = None) -> Any:
        """The call itself, begun with a deadline no later than that of the rpc being served."""
        span = self._span(_text(details.method))
        try:
            call = await proceed(_continued(details, span, timeout_s), request)
        except BaseException:
            span.end()
            raise
        if span.is_recording():
            watch = asyncio.create_task(_end_with(span, call))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
        return call

    def _span(self, method: str) -> trace.Span:
        service, _, name = method.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, HOP: self._hop}
        return tracer.start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes)


async def _end_with(span: trace.Span, call: Any) -> None:
    try:
        code: grpc.StatusCode = await call.code()
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            span.set_status(trace.StatusCode.ERROR, code.name)
    finally:
        span.end()


def _continued(details: Details, span: trace.Span, timeout_s: float | None) -> Details:
    timeout = timeout_s if details.timeout is None else details.timeout
    remaining = deadlines.remaining_s()
    if remaining is not None:
        timeout = remaining if timeout is None else min(timeout, remaining)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
    return grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


def _text(method: str | bytes) -> str:
    # grpc.aio hands interceptors the name as it was encoded for the core (grpc/grpc#31092).
    return method.decode() if isinstance(method, bytes) else method


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, calls: _Calls, deadline_s_default: float) -> None:
        self._calls = calls
        self._deadline_s_default = deadline_s_default

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Details, request: Any) -> Any:
        return await self._calls.start(continuation, client_call_details, request, self._deadline_s_default)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Details, request: Any) -> Any:
        return await self._calls.start(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Details, request_iterator: Any
    ) -> Any:
        return ServerStatus(await self._calls.start(continuation, client_call_details, request_iterator))


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await self._calls.start(continuation, client_call_details, request_iterator)
