"""Calls to the shards of the context store: routed by the ring, bounded in time, tried again where that is safe."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import grpc.aio
from google.protobuf.message import Message
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.errors.v1 import errors_pb2

from gateway.retry import retrying
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error
from services.router import STORE, Router

if TYPE_CHECKING:
    from isthmus.context.v1.context_service_pb2_grpc import ContextServiceAsyncStub

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
# In quotes, since grpc's own classes take no parameters when they run.
Method: TypeAlias = "Callable[[ContextServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Request, Answer]]"


@dataclass(frozen=True, slots=True)
class Shard:
    """The shard that owns a session now."""

    member_id: str
    stub: ContextServiceAsyncStub


class Shards:
    """The context store as one thing. Every error is an IsthmusError."""

    def __init__(self, router: Router, settings: GatewaySettings) -> None:
        self._router = router
        self._settings = settings
        self._stubs: WeakKeyDictionary[grpc.aio.Channel, ContextServiceAsyncStub] = WeakKeyDictionary()

    async def call(
        self,
        method: Method[Request, Answer],
        tenant: str,
        session: str,
        request: Request,
        *,
        until: float,
        wait_seconds_max: float | None = None,
    ) -> Answer:
        """The answer of a method whose repetition changes nothing, by `until` (time.monotonic()).

        A shard that is away is waited for, `gateway.upstream_wait_ms_max` unless `wait_seconds_max` says otherwise.
        """
        bound = self._settings.upstream_wait_ms_max / 1000 if wait_seconds_max is None else wait_seconds_max

        async def attempt() -> Answer:
            shard = self._owner(tenant, session)
            left = until - time.monotonic()
            call_seconds = min(max(0.0, left), self._settings.store_call_ms_max / 1000)
            try:
                return await answered(method(shard.stub)(request, timeout=call_seconds))
            except IsthmusError as error:
                # Any shard can serve any session: the next attempt goes to one that answers.
                if error.reason == errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED and call_seconds < left:
                    self._router.suspect(STORE, shard.member_id)
                    raise UpstreamUnavailable(f"the shard did not answer within {call_seconds:g} s") from None
                if error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE:
                    self._router.suspect(STORE, shard.member_id)
                raise

        return await retrying(attempt, self._settings, min(bound, until - time.monotonic()))

    async def call_once(
        self, method: Method[Request, Answer], tenant: str, session: str, request: Request, *, until: float
    ) -> Answer:
        """The answer of a method that must not run twice: it is sent once a shard can be reached, and never again."""
        stub = await self.reachable(tenant, session, until=until)
        return await answered(method(stub)(request, timeout=max(0.0, until - time.monotonic()), wait_for_ready=True))

    async def reachable(self, tenant: str, session: str, *, until: float) -> ContextServiceAsyncStub:
        """The shard that owns the session, waited for while there is none."""

        async def find() -> ContextServiceAsyncStub:
            return self._owner(tenant, session).stub

        seconds = min(self._settings.upstream_wait_ms_max / 1000, until - time.monotonic())
        return await retrying(find, self._settings, seconds)

    def _owner(self, tenant: str, session: str) -> Shard:
        member_id, channel = self._router.store(tenant, session)
        stub = self._stubs.get(channel)
        if stub is None:
            stub = self._stubs[channel] = ContextServiceStub(channel)
        return Shard(member_id, stub)


async def answered(call: Awaitable[Answer]) -> Answer:
    """A call's answer, or the error that its server raised as an IsthmusError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
