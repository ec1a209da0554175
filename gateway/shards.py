"""Calls to the shards of the context store: routed by the ring, bounded in time, tried again where that is safe."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import grpc.aio
from google.protobuf.message import Message
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.errors.v1 import errors_pb2

from gateway.retry import retrying
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error
from services.router import STORE, Router
from services.rpc import redirects

if TYPE_CHECKING:
    from isthmus.context.v1.context_service_pb2_grpc import ContextServiceAsyncStub

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
# In quotes, since grpc's own classes take no parameters when they run.
Method: TypeAlias = "Callable[[ContextServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Request, Answer]]"


# A shard that answers so has done nothing yet, and another one can do it now.
_ELSEWHERE: Final = frozenset({errors_pb2.ERROR_REASON_SESSION_MOVED, errors_pb2.ERROR_REASON_NOT_READY})


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that is to serve a session. `is_owner`: the ring as it is seen here gives the session to it."""

    member_id: str
    stub: ContextServiceAsyncStub
    is_owner: bool = True


class Shards:
    """The context store as one thing. Every error is an IsthmusError.

    Any shard can serve any session. One that does not own a session sends the caller on to the one that does; the
    redirect is followed at once, and once, for the shard that it leads to serves the call whatever its own view.
    """

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
        # Once sent on, all attempts are served where they arrive: the shard that sent the call on may have been wrong.
        sent_on = False

        async def attempt() -> Answer:
            nonlocal sent_on
            shard = self.owner(tenant, session)
            try:
                return await self.send(method, shard, request, until, sent_on)
            except IsthmusError as error:
                if error.reason not in _ELSEWHERE:
                    raise
                following = self._elsewhere(shard, error, tenant, session)
                sent_on = True
            return await self.send(method, following, request, until, sent_on)

        return await retrying(attempt, self._settings, min(bound, until - time.monotonic()))

    async def call_once(
        self, method: Method[Request, Answer], tenant: str, session: str, request: Request, *, until: float
    ) -> Answer:
        """The answer of a method that must not run twice: it is sent once a shard can be reached, and again only to
        another one that the first has sent it on to.
        """
        shard = await self._reachable(tenant, session, until)

        async def send(shard: Shard, sent_on: bool) -> Answer:
            left = max(0.0, until - time.monotonic())
            metadata = _metadata(shard, sent_on)
            return await answered(method(shard.stub)(request, timeout=left, wait_for_ready=True, metadata=metadata))

        try:
            return await send(shard, sent_on=False)
        except IsthmusError as error:
            if error.reason not in _ELSEWHERE:
                raise
            following = self._elsewhere(shard, error, tenant, session)
        return await send(following, sent_on=True)

    async def reachable(self, tenant: str, session: str, *, until: float) -> ContextServiceAsyncStub:
        """The shard that owns the session, waited for while there is none."""
        return (await self._reachable(tenant, session, until)).stub

    async def _reachable(self, tenant: str, session: str, until: float) -> Shard:
        async def find() -> Shard:
            return self.owner(tenant, session)

        seconds = min(self._settings.upstream_wait_ms_max / 1000, until - time.monotonic())
        return await retrying(find, self._settings, seconds)

    async def send(
        self, method: Method[Request, Answer], shard: Shard, request: Request, until: float, sent_on: bool = False
    ) -> Answer:
        """One attempt at one shard, by `until` and in `gateway.store_call_ms_max`."""
        left = until - time.monotonic()
        call_seconds = min(max(0.0, left), self._settings.store_call_ms_max / 1000)
        try:
            return await answered(method(shard.stub)(request, timeout=call_seconds, metadata=_metadata(shard, sent_on)))
        except IsthmusError as error:
            # The next attempt goes to one that answers.
            if error.reason == errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED and call_seconds < left:
                self._router.suspect(STORE, shard.member_id)
                raise UpstreamUnavailable(f"the shard did not answer within {call_seconds:g} s") from None
            if error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE:
                self._router.suspect(STORE, shard.member_id)
            raise

    def owner(self, tenant: str, session: str) -> Shard:
        """The shard that a session is asked of now. Raises UPSTREAM_UNAVAILABLE while there is none."""
        member_id, channel = self._router.store(tenant, session)
        return Shard(member_id, self._stub(channel), self._router.owns(member_id, tenant, session))

    def _elsewhere(self, shard: Shard, error: IsthmusError, tenant: str, session: str) -> Shard:
        """Who serves what a shard did not: the one that it names, or the next on the ring after one that drains."""
        endpoint = error.metadata.get("endpoint")
        if endpoint:
            return Shard(error.metadata.get("owner", ""), self._stub(self._router.to_store(endpoint)))
        self._router.suspect(STORE, shard.member_id)
        return self.owner(tenant, session)

    def _stub(self, channel: grpc.aio.Channel) -> ContextServiceAsyncStub:
        stub = self._stubs.get(channel)
        if stub is None:
            stub = self._stubs[channel] = ContextServiceStub(channel)
        return stub


def _metadata(shard: Shard, sent_on: bool) -> tuple[tuple[str, str], ...]:
    return redirects.METADATA if sent_on or not shard.is_owner else ()


async def answered(call: Awaitable[Answer]) -> Answer:
    """A call's answer, or the error that its server raised as an IsthmusError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
