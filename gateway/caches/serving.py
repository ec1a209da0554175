"""A turn's reply with the caches in front of the replicas: it has the methods of ReplyStream, and takes its place."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.caches.caches import CachedReply, Caches, Question
from gateway.caches.policy import use_of
from gateway.turn.calls import Errand, Reply
from gateway.turn.receipt import Ledger
from gateway.turn.reply import ReplyStream
from services.config import CacheSettings
from services.errors import IsthmusError

Event = session_service_pb2.RunTurnResponse


class ServedReply:
    """`begin`, then `events` once, `reply` after that, `close` in any case, and `committed` once the turn is done."""

    def __init__(
        self, errand: Errand, replies: ReplyStream, caches: Caches, ledger: Ledger, settings: CacheSettings
    ) -> None:
        self._errand = errand
        self._replies = replies
        self._caches = caches
        self._ledger = ledger
        self._use = use_of(errand.request, errand.limits.name, settings)
        self._question: Question | None = None
        self._cached: CachedReply | None = None
        self._is_told = False

    @property
    def text_sent(self) -> bool:
        """As ReplyStream has it."""
        return self._is_told or self._replies.text_sent

    @property
    def finished_hops(self) -> Sequence[turn_pb2.Hop]:
        """As ReplyStream has it; nobody has any part in an answer that was there."""
        return self._replies.finished_hops

    async def begin(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        """A cached answer if there is one, else the hand-over; where that finds no replica, a cached one, marked so."""
        if not self._use.keeps or self._replies.text_sent:
            return await self._replies.begin(manifest)
        self._question = self._caches.question(self._errand, self._use, manifest)
        if self._use.exact:
            self._cached = await self._caches.lookup(self._question)
        if self._cached is not None:
            return []
        try:
            return await self._replies.begin(manifest)
        except IsthmusError as error:
            if not self._use.stale or error.reason != errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE:
                raise
            self._cached = await self._caches.lookup(self._question, stale=True)
            if self._cached is None:
                raise
            return []

    async def events(self) -> AsyncGenerator[Event, None]:
        """The reply as it comes."""
        if self._cached is not None:
            self._is_told = True
            self._ledger.cached(time.monotonic(), self._cached.use, self._errand.limits.name)
            yield Event(delta=Event.Delta(text=self._cached.text))
            return
        async with aclosing(self._replies.events()) as events:
            async for event in events:
                yield event

    def reply(self) -> Reply:
        """The whole reply, once `events` has ended."""
        if self._cached is not None:
            return Reply(self._cached.text, turn_pb2.FINISH_REASON_STOP, ())
        return self._replies.reply()

    def close(self) -> None:
        """Ends what still goes on."""
        self._replies.close()

    async def committed(self, turn: str) -> None:
        """The turn of this name has the reply: keeps it, unless it is from the cache itself."""
        if self._question is not None and self._cached is None:
            await self._caches.keep(self._question, self._replies.reply(), turn)
