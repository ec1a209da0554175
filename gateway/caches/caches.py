"""The caches of this gateway: what is there for a turn, what is kept of it, and what is told of all that."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import structlog
from google.protobuf import timestamp_pb2
from isthmus.context.v1 import window_pb2
from isthmus.gateway.v1 import cache_service_pb2
from isthmus.session.v1 import turn_pb2
from redis.exceptions import RedisError

from gateway.caches.entry import Entry
from gateway.caches.index import Index, packed
from gateway.caches.keeper import Keeper, Kept, Place
from gateway.caches.policy import Use
from gateway.caches.scope import Asked, asked, exact_id, pair, scope_of
from gateway.caches.verify import UNLIKE, verify
from gateway.models.embedding import Embedded
from gateway.turn.calls import Errand, Reply
from services.config import CacheSettings
from services.errors import IsthmusError
from services.valkey.failover import expected

T = TypeVar("T")
Kind = turn_pb2.CacheUse.Kind
# The nearest that is worth verifying; below it the regression never says yes.
_COSINE_MIN: Final = 0.65
_SCORE_MAX: Final = 0.9999
_TOLD_WRONG: Final = "told_wrong"
_log: Final = structlog.get_logger("caches")


class Embedder(Protocol):
    """What makes vectors of texts."""

    async def embed(self, texts: list[str], model: str, until: float) -> Embedded:
        """A unit vector for each text, by `until`."""


@dataclass(slots=True)
class Question:
    """A turn as the caches see it: where its answer would be. Vectors are made once."""

    errand: Errand
    use: Use
    place: Place
    # Where it may be compared with others.
    asked: Asked | None = None
    vector: bytes = b""
    embedder: str = ""


@dataclass(frozen=True, slots=True)
class CachedReply:
    """An answer that was there, and how the receipt tells of it."""

    text: str
    use: turn_pb2.CacheUse


class Caches:
    """Exact and semantic answers of all tenants. Nothing here fails a turn: what cannot be had in time is a miss."""

    def __init__(self, keeper: Keeper, embedder: Embedder, settings: CacheSettings) -> None:
        self._keeper = keeper
        self._embedder = embedder
        self._settings = settings
        # By tenant and scope, those used last at the end.
        self._indexes: OrderedDict[tuple[str, str], tuple[Index, asyncio.Lock]] = OrderedDict()
        self._counts: dict[str, Counter[str]] = {}
        self._flushing: asyncio.Task[None] | None = None

    def question(self, errand: Errand, use: Use, manifest: window_pb2.Manifest) -> Question:
        """What a turn asks, of the window that its shard has planned."""
        tenant, params, model = errand.tenant, errand.request.params, errand.limits.name
        alone = None if use.score_min is None else asked(manifest, self._settings.question_bytes_max)
        scope = scope_of(tenant, model, params, alone.context if alone else b"")
        return Question(errand, use, Place(tenant, scope.digest, exact_id(manifest)), alone)

    async def lookup(self, question: Question, *, stale: bool = False) -> CachedReply | None:
        """The answer that the turn may be given, the cheapest one first; `stale` where no replica could be reached."""
        tenant = question.errand.tenant
        self._count(tenant, "lookups")
        found = await self._in_time(tenant, self._lookup(question, stale))
        if found is not None:
            self._count(tenant, f"hits_{Kind.Name(found.use.kind).removeprefix('KIND_').lower()}")
        return found

    async def keep(self, question: Question, reply: Reply, turn: str) -> None:
        """Keeps the answer that the model has given the turn, if it is one that others may be given."""
        if reply.finish_reason != turn_pb2.FINISH_REASON_STOP or not reply.text:
            return
        if len(reply.text.encode()) <= self._settings.answer_bytes_max:
            await self._in_time(question.errand.tenant, self._keep(question, reply.text, turn))

    async def wrong(self, tenant: str, turn: turn_pb2.Turn, question: str) -> str:
        """Drops the entry that the turn was given, and has it never given for the turn's question again.

        The turn that the answer was from. `question` is what the turn asked.
        """
        use = turn.receipt.cache
        scope, _, entry_id = use.entry.partition("/")
        place = Place(tenant, scope, entry_id)
        with _translated():
            kept = await self._keeper.take(place)
            # A second time the entry is gone, and so is its question: the pair is remembered from the first.
            if kept is not None:
                of_another = use.score <= _SCORE_MAX and kept.entry.question
                await self._keeper.drop(place, pair(question, kept.entry.question) if of_another else entry_id)
                self._count(tenant, "wrong")
                await self._flush()
        return use.source_turn

    async def forget(self, tenant: str, session: str) -> None:
        """Drops what was kept of a session that is erased."""
        with _translated():
            await self._keeper.forget(tenant, session)

    async def report(self, tenant: str) -> cache_service_pb2.CacheReport:
        """What the tenant's caches were good for."""
        with _translated():
            await self._flush()
            counts = await self._keeper.counts(tenant)
            entries, scopes = await self._keeper.sizes(tenant)
        names = ("lookups", "hits_exact", "hits_semantic", "hits_stale", "wrong", "failed", "kept")
        return cache_service_pb2.CacheReport(
            entries=entries,
            scopes=scopes,
            refused={name.removeprefix("refused_"): n for name, n in counts.items() if name.startswith("refused_")},
            **{name: counts.get(name, 0) for name in names},
        )

    async def aclose(self) -> None:
        """Adds the last counts to those of all."""
        if self._flushing is not None:
            self._flushing.cancel()
        try:
            async with asyncio.timeout(self._settings.wait_ms_max / 1000):
                await self._flush()
        except (RedisError, TimeoutError, IsthmusError) as error:
            _log.info("counts are lost", error=str(error))

    async def _lookup(self, question: Question, stale: bool) -> CachedReply | None:
        kept = await self._keeper.take(question.place)
        if kept is not None:
            return _reply(Kind.KIND_STALE if stale else Kind.KIND_EXACT, 1.0, question.place, kept)
        if question.asked is None or question.use.score_min is None:
            return None
        return await self._like(question, question.asked, question.use.score_min, stale)

    async def _like(self, question: Question, asked: Asked, score_min: float, stale: bool) -> CachedReply | None:
        """The answer to another question that asks the same."""
        await self._embed(question, asked)
        like = question.place
        index = await self._index(like.tenant, like.scope)
        settings = self._settings
        strictly = question.use.level == "strict"
        now, best, score, why = self._keeper.now_ms(), None, 0.0, ""
        near = index.near(question.vector, question.embedder, settings.candidates_count_max, _COSINE_MIN)
        for entry, cosine in near:
            if entry.is_over(now, settings.ttl_ms):
                continue
            if pair(asked.question, entry.question) in index.wrong:
                why = why or _TOLD_WRONG
                continue
            verdict = verify(asked.question, entry.question, cosine, strictly=strictly)
            if verdict.score > score and verdict.score >= score_min:
                # Never as sure as of the same window: that is how a receipt tells the two apart.
                best, score = entry, min(_SCORE_MAX, verdict.score)
            why = why or verdict.apart or UNLIKE
        kept = None if best is None else await self._keeper.take(Place(like.tenant, like.scope, best.id))
        if best is None or kept is None:
            # Told by the nearest one alone, so that the report adds up to lookups.
            if why:
                self._count(like.tenant, f"refused_{why}")
            return None
        kind = Kind.KIND_STALE if stale else Kind.KIND_SEMANTIC
        return _reply(kind, score, Place(like.tenant, like.scope, best.id), kept)

    async def _keep(self, question: Question, text: str, turn: str) -> None:
        entry = Entry(question.place.id, turn, self._keeper.now_ms())
        if question.asked is not None:
            await self._embed(question, question.asked)
            entry = Entry(entry.id, turn, entry.create_ms, question.asked.question, question.embedder, question.vector)
        if await self._keeper.keep(question.place, entry, text, question.errand.session):
            self._count(question.errand.tenant, "kept")

    async def _embed(self, question: Question, asked: Asked) -> None:
        if not question.vector:
            until = min(question.errand.until, time.monotonic() + self._settings.wait_ms_max / 1000)
            made = await self._embedder.embed([asked.question], question.errand.limits.name, until)
            question.vector, question.embedder = packed(made.vectors[0]), made.model

    async def _index(self, tenant: str, scope: str) -> Index:
        """The scope's index, as the scope is now."""
        key = (tenant, scope)
        index, lock = self._indexes.setdefault(key, (Index(), asyncio.Lock()))
        self._indexes.move_to_end(key)
        while len(self._indexes) > self._settings.indexes_count_max:
            self._indexes.popitem(last=False)
        # Two that read on at once would put the same changes in, the older ones perhaps behind the newer.
        async with lock:
            await self._keeper.bring_up(index, tenant, scope)
        return index

    async def _in_time(self, tenant: str, work: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(self._settings.wait_ms_max / 1000):
                return await work
        except (RedisError, IsthmusError, TimeoutError) as error:
            self._count(tenant, "failed")
            _log.info("a cache could not be asked", error=f"{type(error).__name__}: {error}")
            return None

    def _count(self, tenant: str, name: str) -> None:
        self._counts.setdefault(tenant, Counter())[name] += 1
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_later(), name="cache counts")

    async def _flush_later(self) -> None:
        await asyncio.sleep(self._settings.counts_flush_ms / 1000)
        try:
            await self._flush()
        except (RedisError, IsthmusError) as error:
            _log.info("counts are lost", error=str(error))

    async def _flush(self) -> None:
        counts, self._counts = self._counts, {}
        for tenant, each in counts.items():
            await self._keeper.add_counts(tenant, each)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise expected(error) or error from error


def _reply(kind: turn_pb2.CacheUse.Kind.ValueType, score: float, place: Place, kept: Kept) -> CachedReply:
    created = timestamp_pb2.Timestamp()
    created.FromMilliseconds(kept.entry.create_ms)
    use = turn_pb2.CacheUse(
        kind=kind,
        score=round(score, 4),
        source_turn=kept.entry.source_turn,
        entry=place.name,
        create_time=created,
    )
    return CachedReply(kept.answer, use)
