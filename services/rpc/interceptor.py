"""The one interceptor of every server: readiness, load, validation, deadline, errors to status, trace.

Each method's handler is wrapped once, when it is first called, and kept; a call pays no more than the work itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import Message
from isthmus.errors.v1 import errors_pb2
from opentelemetry.instrumentation.grpc import aio_server_interceptor

from services import telemetry
from services.errors import DETAILS_KEY, IsthmusError, UpstreamUnavailable, from_rpc_error, to_status
from services.lifecycle import Lifecycle, State
from services.rpc import deadlines, redirects, validation
from services.telemetry import current_trace_id
from services.valkey import failover

# Asked for while a process starts or drains, too, and by strangers: neither refused, nor validated, nor traced.
EXEMPT: Final = ("/grpc.health.", "/grpc.reflection.")

# In quotes, since grpc's own classes take no parameters when they run.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = "Callable[[Any, Context], Any]"
Admit: TypeAlias = "Callable[[str, Context], Awaitable[None]]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"

_log = structlog.get_logger("rpc")


@dataclass(slots=True)
class _Method:
    """What the tracing interceptor needs to know of a call, and that is the same for all calls of a method."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class RoomInterceptor(grpc.aio.ServerInterceptor):
    """Stands between gRPC and the servicers of a room; servicers raise IsthmusError and never touch status codes.

    Methods in `finishing` serve open work and are let through while the room drains. Servicers of response streams are
    async generators; they are closed in their own task as soon as their caller goes. `admit` is awaited with the
    method's full name before a request is checked, and raises what its caller is to be told if it is not let in.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        concurrent_rpcs_max: int,
        finishing: Iterable[str] = (),
        admit: Admit | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._open_max = concurrent_rpcs_max
        self._finishing = frozenset(finishing)
        self._admit = admit
        self._tracing: grpc.aio.ServerInterceptor = aio_server_interceptor()  # type: ignore[no-untyped-call]
        self._handlers: dict[str, Handler] = {}
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open_rpcs(self) -> int:
        """How many rpcs are being served now."""
        return self._open

    async def wait_idle(self) -> None:
        """Waits until no rpc is open."""
        await self._idle.wait()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """The wrapped handler of the method; None for a method that nobody serves."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = await self._prepare(continuation, handler_call_details)
            # Only what is served is kept: a stranger's invented names must not fill the memory.
            if handler is not None:
                self._handlers[method] = handler
        return handler

    async def _prepare(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler | None:
        method = details.method
        handler = await continuation(details)
        if handler is None or method.startswith(EXEMPT):
            return handler
        return await self._wrapped(method, handler)

    async def _wrapped(self, method: str, handler: Handler) -> Handler:
        """The handler that admits, checks and answers errors with their status, inside of a span."""
        guarded = self._guarded(method, handler)

        async def inner(_: grpc.HandlerCallDetails) -> Handler:
            # A response stream is a coroutine that writes, so the instrumentation's unary path traces every kind.
            return grpc.unary_unary_rpc_method_handler(guarded)

        traced = await self._tracing.intercept_service(inner, _Method(method))
        reader = handler.request_deserializer
        assert traced is not None, f"{method}: the instrumentation dropped the handler that it was given"
        recorded = _behavior(traced)

        async def serve(request: Any, context: Context) -> Any:
            if telemetry.records():
                return await recorded(request, context)
            with telemetry.continued(_traceparent(context)):
                return await guarded(request, context)

        assert reader is not None, f"{method}: expected a handler of a generated stub, which has a deserializer"
        return _KINDS[handler.request_streaming, handler.response_streaming](
            serve,
            request_deserializer=validation.forgiving(reader),
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, method: str, handler: Handler) -> Behavior:
        serve = (_streaming if handler.response_streaming else _single)(handler)
        finishing = method in self._finishing

        async def guarded(request: Any, context: Context) -> Any:
            try:
                with self._admitted(finishing, context):
                    if self._admit is not None:
                        await self._admit(method, context)
                    return await serve(request, context)
            except asyncio.CancelledError:
                if _cancelled():
                    # For the span alone: the caller is gone.
                    context.set_code(grpc.StatusCode.CANCELLED)
                    raise
                # gRPC takes every CancelledError for the caller's and would leave this caller without an answer.
                await _abort(context, method, UpstreamUnavailable("what this call waited for was cancelled"))
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
                await _abort(context, method, error)

        return guarded

    @contextmanager
    def _admitted(self, finishing: bool, context: Context) -> Iterator[None]:
        """Counts the rpc as open, hands on what came with it. Raises NOT_READY or OVERLOADED, each with RetryInfo."""
        state = self._lifecycle.state
        if state is not State.READY and not (finishing and state is State.DRAINING):
            raise IsthmusError(errors_pb2.ERROR_REASON_NOT_READY, f"this member is {state.value}; expected a ready one")
        if self._open >= self._open_max:
            message = f"{self._open} rpcs are open, which is all that this member serves at once"
            raise IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message)
        deadlines.enter(context.time_remaining())
        redirects.enter(context.invocation_metadata())
        self._open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()


def _traceparent(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == telemetry.TRACEPARENT:
            return value if isinstance(value, str) else None
    return None


def _single(handler: Handler) -> Behavior:
    behavior = _behavior(handler)
    checked = _checked_each if handler.request_streaming else _checked

    async def serve(request: Any, context: Context) -> Any:
        return await behavior(checked(request), context)

    return serve


def _streaming(handler: Handler) -> Behavior:
    behavior = _behavior(handler)
    checked = _checked_each if handler.request_streaming else _checked

    async def serve(request: Any, context: Context) -> None:
        # gRPC leaves a generator whose caller has gone to the garbage collector; here it is closed at once.
        async with aclosing(behavior(checked(request), context)) as responses:
            async for response in responses:
                await context.write(response)

    return serve


def _checked(request: Message | validation.Malformed) -> Message | validation.Malformed:
    validation.check(request)
    return request


async def _checked_each(
    requests: AsyncIterable[Message | validation.Malformed],
) -> AsyncIterator[Message | validation.Malformed]:
    async for request in requests:
        validation.check(request)
        yield request


def _cancelled() -> bool:
    """Whether this very rpc was cancelled, and not something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _abort(context: Context, method: str, error: Exception) -> None:
    """Ends the rpc with the error's status. What is not expected is a bug: logged whole, answered by trace id alone."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    expected = _expected(error)
    if expected is None:
        _log.error("bug", method=method, exc_info=error)
        message = f"an error of ours, not yours; it is logged under trace {current_trace_id()}"
        expected = IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, message)
    details = to_status(expected).SerializeToString()
    await context.abort(expected.code, expected.message, ((DETAILS_KEY, details),))


def _expected(error: Exception) -> IsthmusError | None:
    if isinstance(error, IsthmusError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    if isinstance(error, TimeoutError):
        return IsthmusError(errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED, f"timed out: {error}")
    return failover.expected(error)


def _behavior(handler: Handler) -> Behavior:
    candidates = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    return cast("Behavior", next(each for each in candidates if each is not None))


_KINDS: Final = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
