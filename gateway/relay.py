"""A stream on its way from an edge to its shard, one message at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2

from gateway.shards import answered

Part = TypeVar("Part")
Request = TypeVar("Request")
Answer = TypeVar("Answer", bound=Message)


class Relay(Generic[Part, Request]):
    """The shard's requests for the parts of an edge's stream; it holds the part that is being sent, and no other.

    `request` makes one of a part; the first names the session, the others None.
    """

    def __init__(
        self,
        key: context_service_pb2.SessionKey,
        parts: AsyncIterator[Part],
        request: Callable[[context_service_pb2.SessionKey | None, Part], Request],
    ) -> None:
        self._key = key
        self._parts = parts
        self._request = request
        # What the edge's stream failed with, if it did.
        self._failure: Exception | None = None

    async def run(self, call: Callable[[AsyncIterator[Request]], Awaitable[Answer]]) -> Answer:
        """The answer to the whole stream. Raises why the shard refused it, or what the edge's stream failed with."""
        try:
            return await answered(call(self._requests()))
        except asyncio.CancelledError:
            # gRPC cancels a call whose requests fail to come, and keeps why to itself.
            if self._failure is None:
                raise
        raise self._failure

    async def _requests(self) -> AsyncIterator[Request]:
        key: context_service_pb2.SessionKey | None = self._key
        try:
            async for part in self._parts:
                yield self._request(key, part)
                key = None
        except Exception as error:
            self._failure = error
            raise
