"""What every outgoing call gets: a deadline, and a client span labelled with its hop.

The server's side is traced by opentelemetry-instrumentation-grpc. Its client interceptors end a unary call's span only
when the call is not cancelled, and a stream's only when it is read to its end, with a generator around each message.
A client's span is therefore made here, for all four kinds alike: it ends when the call does, however it does.

Here is a channel around gRPC's and no interceptor of it, because grpc.aio makes a task of each call that is intercepted
and hands on each of its messages: that is more than the rest of the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
from opentelemetry import propagate, trace

from services import telemetry
from services.rpc import deadlines
from services.rpc.ended import ServerStatus
from services.telemetry import HOP, tracer

Method: TypeAlias = Callable[..., Any]
Pairs: TypeAlias = Sequence[tuple[str, str | bytes]]


class HopChannel(grpc.aio.Channel):
    """A channel whose calls have a deadline no later than that of the rpc being served, and a span each.

    `deadline_s_default` is that of a unary call; streams have none but the one they are given.
    """

    def __init__(self, channel: grpc.aio.Channel, hop: str, deadline_s_default: float) -> None:
        self._channel = channel
        self._calls = _Calls(hop)
        self._deadline_s_default = deadline_s_default

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._channel.__aexit__(kind, error, traceback)

    async def close(self, grace: float | None = None) -> None:
        """As gRPC's."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As gRPC's."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As gRPC's."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As gRPC's."""
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *made: Any, **by_name: Any) -> Any:
        """A method of this kind, by its full name."""
        return self._calls.starting(
            method, self._channel.unary_unary(method, *made, **by_name), self._deadline_s_default
        )

    def unary_stream(self, method: str, *made: Any, **by_name: Any) -> Any:
        """A method of this kind, by its full name."""
        return self._calls.starting(method, self._channel.unary_stream(method, *made, **by_name))

    def stream_unary(self, method: str, *made: Any, **by_name: Any) -> Any:
        """A method of this kind, by its full name."""
        start = self._calls.starting(method, self._channel.stream_unary(method, *made, **by_name))
        return lambda *given, **options: ServerStatus(start(*given, **options))

    def stream_stream(self, method: str, *made: Any, **by_name: Any) -> Any:
        """A method of this kind, by its full name."""
        return self._calls.starting(method, self._channel.stream_stream(method, *made, **by_name))


class _Calls:
    """Starts calls under spans that end with them."""

    def __init__(self, hop: str) -> None:
        self._hop = hop
        self._watches: set[asyncio.Task[None]] = set()

    def starting(self, method: str, made: Method, timeout_s_default: float | None = None) -> Method:
        """gRPC's method with what each call of it gets."""

        def start(
            request: Any = None, *, timeout: float | None = None, metadata: Pairs | None = None, **options: Any
        ) -> Any:
            timeout = _bounded(timeout_s_default if timeout is None else timeout)
            if not telemetry.records():
                traceparent = telemetry.traceparent()
                pairs = ((*metadata,) if metadata else ()) + ((telemetry.TRACEPARENT, traceparent),)
                return made(request, timeout=timeout, metadata=grpc.aio.Metadata(*pairs), **options)
            return self._under_span(method, made, request, timeout, metadata, options)

        return start

    def _under_span(
        self,
        method: str,
        made: Method,
        request: Any,
        timeout: float | None,
        metadata: Pairs | None,
        options: dict[str, Any],
    ) -> Any:
        span = self._span(method)
        try:
            carrier: dict[str, str] = {}
            propagate.inject(carrier, trace.set_span_in_context(span))
            pairs = grpc.aio.Metadata(*(metadata or ()), *carrier.items())
            call = made(request, timeout=timeout, metadata=pairs, **options)
        except BaseException:
            span.end()
            raise
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


def _bounded(timeout_s: float | None) -> float | None:
    remaining = deadlines.remaining_s()
    if remaining is None or timeout_s is None:
        return remaining if timeout_s is None else timeout_s
    return min(timeout_s, remaining)
