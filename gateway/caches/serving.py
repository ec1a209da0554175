"""A turn's reply with the caches in front of the replicas: it has the methods of ReplyStream, and takes its place."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from isthmus.context.v1 import context_service_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from gateway.caches.caches import CachedReply, Caches, Question
from gateway.caches.policy import use_of
from gateway.turn.calls import Errand, Reply
from gateway.turn.receipt import Ledger
from gateway.turn.reply import ReplyStream
from services.config import CacheSettings
from services.errors import IsthmusError

Piece = context_service_pb2.OutputPiece
# A cached answer is told in pieces of so many characters.
_PIECE_CHARS: Final = 8_192


class ServedReply:
    """`begin`, then `events` once, `reply` after that, `close` in any case, and `committed` once the turn is done."""

    def __init__(
        self,
        errand: Errand,
        replies: ReplyStream,
        caches: Caches,
        ledger: Ledger,
        settings: CacheSettings,
        sourced: Callable[[turn_pb2.CacheUse | None], None],
    ) -> None:
        """`sourced` is told where the reply comes from as soon as that is known: None where it is generated. Where no
        cache may give or keep it, nobody asks.
        """
        self._errand = errand
        self._replies = replies
        self._caches = caches
        self._ledger = ledger
        self._use = use_of(errand.request, errand.limits.name, settings)
        self._sourced = sourced
        self._question: Question | None = None
        self._cached: CachedReply | None = None
        self._is_anew = False

    @property
    def output_tokens(self) -> int:
        """Tokens that were generated for it by now."""
        return 0 if self._cached is not None else self._replies.output_tokens

    @property
    def finished_hops(self) -> Sequence[turn_pb2.Hop]:
        """As ReplyStream has it; nobody has any part in an answer that was there."""
        return self._replies.finished_hops

    async def begin(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        """A cached answer if there is one, else the hand-over; where that finds no replica, a cached one, marked so."""
        if not self._use.keeps or self._replies.has_begun or self._is_anew:
            return await self._replies.begin(manifest)
        self._question = self._caches.question(self._errand, self._use, manifest)
        if self._use.exact:
            self._cached = await self._caches.lookup(self._question)
        if self._cached is not None:
            self._sourced(self._cached.use)
            return []
        if not self._use.stale:
            self._sourced(None)
        try:
            hops = await self._replies.begin(manifest)
        except IsthmusError as error:
            if not self._use.stale or error.reason != errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE:
                raise
            self._cached = await self._caches.lookup(self._question, stale=True)
            if self._cached is None:
                raise
            hops = []
        if self._use.stale:
            self._sourced(None if self._cached is None else self._cached.use)
        return hops

    def resume(self, said: Iterable[Piece]) -> None:
        """As ReplyStream has it: what was begun is gone on with, and no cached answer takes its place."""
        self._replies.resume(said)

    async def events(self) -> AsyncGenerator[Piece | turn_pb2.Hop, None]:
        """The reply as it comes."""
        if self._cached is not None:
            self._ledger.cached(time.monotonic(), self._cached.use, self._errand.limits.name)
            text = self._cached.text
            for begin in range(0, len(text), _PIECE_CHARS):
                yield Piece(text=text[begin : begin + _PIECE_CHARS])
            return
        async with aclosing(self._replies.events()) as events:
            async for event in events:
                yield event

    def reply(self) -> Reply:
        """The whole reply, once `events` has ended."""
        if self._cached is not None:
            return Reply(self._cached.text, turn_pb2.FINISH_REASON_STOP, ())
        return self._replies.reply()

    def anew(self, replies: ReplyStream) -> None:
        """What there was by now was refused: `begin` has another reply made, and no cached one takes its place."""
        self._replies.close()
        self._replies, self._is_anew = replies, True
        if self._cached is not None:
            self._cached = None
            self._sourced(None)

    def close(self) -> None:
        """Ends what still goes on."""
        self._replies.close()

    async def committed(self, turn: str, read: Reply) -> None:
        """The turn of this name has the reply as its client has read it: keeps that, unless it is a cached one."""
        if self._question is not None and self._cached is None:
            await self._caches.keep(self._question, read, turn)
