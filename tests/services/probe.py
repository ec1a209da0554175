"""A service with one method of each kind, so that the chassis is tested by itself and over real gRPC.

A request is a GetTurnRequest; its `turn` is whatever the test wants it to be. Answers are Turns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from isthmus.context.v1.context_service_pb2 import DESCRIPTOR, GetTurnRequest, SessionKey
from isthmus.session.v1.turn_pb2 import Turn

from services.config import Settings
from services.lifecycle import Lifecycle, RoomContext, State
from services.rpc import GrpcServer

SERVICE: Final = "isthmus.test.Probe"
KINDS: Final = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")

Effect = Callable[[GetTurnRequest], Any]


def request(turn: int = 1, session: str = "s1") -> GetTurnRequest:
    """A valid request, unless the arguments make it another."""
    return GetTurnRequest(key=SessionKey(tenant="local", session=session), turn=turn)


class Probe:
    """Awaits the test's `effect` on every request and answers with the request's number."""

    def __init__(self, effect: Effect | None = None) -> None:
        self.effect = effect
        self.seen: list[int] = []
        self.closed = 0

    async def _answer(self, each: GetTurnRequest) -> Turn:
        self.seen.append(each.turn)
        if self.effect is not None:
            await self.effect(each)
        return Turn(name=str(each.turn))

    async def unary_unary(self, each: GetTurnRequest, context: object) -> Turn:
        return await self._answer(each)

    async def unary_stream(self, each: GetTurnRequest, context: object) -> AsyncIterator[Turn]:
        try:
            for _ in range(each.turn):
                yield await self._answer(each)
        finally:
            self.closed += 1

    async def stream_unary(self, requests: AsyncIterator[GetTurnRequest], context: object) -> Turn:
        return [await self._answer(each) async for each in requests][-1]

    async def stream_stream(self, requests: AsyncIterator[GetTurnRequest], context: object) -> AsyncIterator[Turn]:
        async for each in requests:
            yield await self._answer(each)


def register(probe: Any, server: grpc.aio.Server) -> None:
    """What a generated `add_…Servicer_to_server` does."""
    coding: dict[str, Any] = {
        "request_deserializer": GetTurnRequest.FromString,
        "response_serializer": Turn.SerializeToString,
    }
    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(probe.unary_unary, **coding),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(probe.unary_stream, **coding),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(probe.stream_unary, **coding),
        "StreamStream": grpc.stream_stream_rpc_method_handler(probe.stream_stream, **coding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class ProbeClient:
    """Calls any kind with one request and returns all answers' names."""

    def __init__(self, channel: grpc.aio.Channel, *, raw: bool = False) -> None:
        coding: dict[str, Any] = {
            "request_serializer": bytes if raw else GetTurnRequest.SerializeToString,
            "response_deserializer": Turn.FromString,
        }
        self.unary_unary: Any = channel.unary_unary(f"/{SERVICE}/UnaryUnary", **coding)
        self.unary_stream: Any = channel.unary_stream(f"/{SERVICE}/UnaryStream", **coding)
        self.stream_unary: Any = channel.stream_unary(f"/{SERVICE}/StreamUnary", **coding)
        self.stream_stream: Any = channel.stream_stream(f"/{SERVICE}/StreamStream", **coding)

    async def call(self, kind: str, *requests: Any, timeout: float | None = 10.0) -> list[str]:  # noqa: ASYNC109
        """The answers of one rpc of this kind."""
        match kind:
            case "UnaryUnary":
                return [(await self.unary_unary(requests[0], timeout=timeout)).name]
            case "UnaryStream":
                return [turn.name async for turn in self.unary_stream(requests[0], timeout=timeout)]
            case "StreamUnary":
                return [(await self.stream_unary(_stream(requests), timeout=timeout)).name]
            case _:
                return [turn.name async for turn in self.stream_stream(_stream(requests), timeout=timeout)]


async def _stream(requests: tuple[Any, ...]) -> AsyncIterator[Any]:
    for each in requests:
        yield each


@asynccontextmanager
async def served(
    settings: Settings, probe: Probe, state: State = State.READY, **options: Any
) -> AsyncIterator[tuple[GrpcServer, Lifecycle]]:
    """A server with the probe on it, in the given state."""
    context = RoomContext(settings, "probe-0", "127.0.0.1:0")
    server = GrpcServer(context, **options)
    server.add(register, probe, DESCRIPTOR)
    await server.start()
    if state is not State.STARTING:
        context.lifecycle.move(state)
    try:
        yield server, context.lifecycle
    finally:
        await server.stop()
