"""The indexes of a shard: made when somebody searches, brought up to the log each time, bounded in bytes together.

What is heavy runs in threads, one step at a time, so that neither turns nor other searches wait for a document.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from isthmus.errors.v1 import errors_pb2

from context_store.log.document_reads import SessionState
from context_store.log.keys import Keys
from context_store.log.stored import descends
from context_store.log.stored_documents import StoredDocument
from context_store.retrieval.library_index import Answer, LibraryIndex, Query
from context_store.retrieval.words import Terms, terms
from context_store.session.catalogues import Catalogues
from context_store.session.document_deletion import document_rows
from context_store.store import Store, page_count
from services.collections import collection_of
from services.config import RetrievalSettings
from services.errors import IsthmusError
from services.passages import Passage, PassageCutter, cuts_of

# An index that is mostly of documents which are gone is built anew, if it has so many passages of those at least.
_WASTED_COUNT_MIN: Final = 1_000


@dataclass(slots=True)
class _Shelf:
    """One session's index; `lock` is for whoever reads or changes it, `build` the task that brings it up."""

    index: LibraryIndex = field(default_factory=LibraryIndex)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    build: asyncio.Task[None] | None = None
    # Which session, and which of its erasures, it is of; and what it is brought up to.
    stamp: tuple[bytes, bytes] = (b"", b"")
    version: bytes = b""
    embedder: str = ""


class Indexes:
    """Searches sessions' documents."""

    def __init__(self, store: Store, catalogues: Catalogues) -> None:
        self._store = store
        self._catalogues = catalogues
        self._settings: RetrievalSettings = store.settings.retrieval
        self._shelves: OrderedDict[Keys, _Shelf] = OrderedDict()
        self._places = asyncio.Semaphore(self._settings.builds_count_max)

    @property
    def memory_bytes(self) -> int:
        """About what all indexes take in memory."""
        return sum(shelf.index.memory_bytes for shelf in self._shelves.values())

    async def search(
        self,
        keys: Keys,
        version: bytes,
        query: Query,
        wanted: Sequence[StoredDocument],
        limit: int,
        score_min: float,
    ) -> tuple[Answer, int]:
        """The best passages of the wanted documents, and the last sequence number of those that were searched.

        The index is that of the session's `version` or a later one, unless to build it takes too long. OVERLOADED while
        it is built for the first time, QUOTA_EXCEEDED where it would not fit into memory.
        """
        shelf = self._shelves.setdefault(keys, _Shelf())
        self._shelves.move_to_end(keys)
        await self._bring_up(keys, shelf, version, query.embedder)
        wanted_keys = [key_of(one) for one in wanted]
        async with shelf.lock:
            index = shelf.index
            answer = await asyncio.to_thread(index.search, query, wanted_keys, limit, score_min)
            there = (index.documents.get(key) for key in wanted_keys)
            return answer, max((one.last_sequence for one in there if one), default=0)

    def forget(self, keys: Keys) -> int:
        """Drops a session's index; about its bytes."""
        shelf = self._shelves.pop(keys, None)
        if shelf is None:
            return 0
        if shelf.build:
            shelf.build.cancel()
        return shelf.index.memory_bytes

    async def stop(self) -> None:
        """Breaks off what is being built."""
        builds = [shelf.build for shelf in self._shelves.values() if shelf.build]
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)

    async def _bring_up(self, keys: Keys, shelf: _Shelf, version: bytes, embedder: str) -> None:
        until = asyncio.get_running_loop().time() + self._settings.build_wait_ms_max / 1000
        # A build that began for another search may have begun too early for this one; the next one has not.
        for _ in range(2):
            if _is_up(shelf, version, embedder):
                return
            if shelf.build is None or shelf.build.done():
                shelf.build = asyncio.create_task(self._build(keys, shelf, embedder))
                shelf.build.add_done_callback(_ended)
            build = shelf.build
            await asyncio.wait({build}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
            if build.done() and not build.cancelled():
                build.result()
            elif build.done() or not shelf.index.documents:
                raise IsthmusError(
                    errors_pb2.ERROR_REASON_OVERLOADED,
                    f"sessions/{keys.session}: its index is being built; expected a later call to find it there",
                )
            else:
                return

    async def _build(self, keys: Keys, shelf: _Shelf, embedder: str) -> None:
        """Brings an index up to the documents that there are now, from wherever it is."""
        async with self._places:
            catalogue = await self._catalogues.read(keys)
            state = await self._store.log.session_state(keys)
            self._renew(keys, shelf, state)
            there = {key_of(one): one for one in catalogue.documents if one.is_complete}
            async with shelf.lock:
                shelf.index.begin()
                for key in [key for key in shelf.index.documents if key not in there]:
                    shelf.index.remove(key)
            for key, stored in there.items():
                if key not in shelf.index.documents:
                    await self._add(keys, shelf, state, stored)
            await self._add_vectors(keys, shelf, there, embedder)
            shelf.version, shelf.embedder = catalogue.version, embedder or shelf.embedder

    def _renew(self, keys: Keys, shelf: _Shelf, state: SessionState) -> None:
        # A collection's documents go whole, which their keys tell; a user may erase any part of his.
        stamp = state.incarnation, b"" if collection_of(keys.session) else state.void_at
        if stamp != shelf.stamp or shelf.index.wasted_count > max(shelf.index.passage_count, _WASTED_COUNT_MIN):
            shelf.index, shelf.stamp, shelf.embedder = LibraryIndex(), stamp, ""

    async def _add(self, keys: Keys, shelf: _Shelf, state: SessionState, stored: StoredDocument) -> None:
        key, index, document = key_of(stored), shelf.index, stored.document
        cutter = PassageCutter(*cuts_of(document))
        async for fragments in self._texts(keys, state.incarnation, stored):
            passages, words = await asyncio.to_thread(_cut, cutter, fragments)
            async with shelf.lock:
                await asyncio.to_thread(index.append, key, passages, words)
            self._make_room(keys, shelf)
        passages = list(cutter.end())
        async with shelf.lock:
            index.append(key, passages, [terms(one.text) for one in passages])
            index.complete(key, document.last_sequence)

    async def _texts(
        self, keys: Keys, incarnation: bytes, stored: StoredDocument
    ) -> AsyncIterator[list[tuple[int, str]]]:
        """A document's fragments with their numbers, about a batch at a time."""
        async for rows in document_rows(self._store, keys, stored):
            while rows:
                count = page_count((row.size for row in rows), self._settings.build_batch_bytes_max)
                some = [row.sequence for row in rows[:count]]
                found = await self._store.bodies.get(keys, incarnation, some)
                yield [(one.sequence, one.text) for one in found]
                rows = rows[count:]

    async def _add_vectors(self, keys: Keys, shelf: _Shelf, there: dict[str, StoredDocument], embedder: str) -> None:
        index = shelf.index
        states = {key: one.state for key, one in there.items()}
        wanted = embedder or index.embedder
        dimensions = {one.dimensions for one in states.values() if one and one.embedder == wanted}
        if not wanted or not dimensions:
            return
        width = max(dimensions)
        async with shelf.lock:
            index.use_embedder(wanted, width)
        for key, state in states.items():
            indexed = index.documents.get(key)
            if not state or not indexed or state.embedder != wanted or state.dimensions != width:
                continue
            # Vectors of passages that were cut otherwise are none of these.
            if state.passage_count != indexed.count:
                continue
            batches = [first for first in state.batches if first >= indexed.embedded_count]
            for first in batches:
                (stored,) = await self._store.log.vectors(keys, there[key].id, [first])
                if stored is None or first != indexed.embedded_count:
                    # Replaced meanwhile: the next search has the newer state.
                    break
                vectors = np.frombuffer(stored, "<f2").reshape(-1, state.dimensions).astype(np.float32)
                async with shelf.lock:
                    await asyncio.to_thread(index.add_vectors, key, vectors)
            self._make_room(keys, shelf)

    def _make_room(self, keys: Keys, shelf: _Shelf) -> None:
        """Lets go of the indexes that were used longest ago; QUOTA_EXCEEDED where this one alone is too large."""
        bound, size = self._settings.index_bytes_max, shelf.index.memory_bytes
        if size > bound:
            self._shelves.pop(keys, None)
            raise IsthmusError(
                errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
                f"sessions/{keys.session}: its index takes more than {bound} bytes; expected at most"
                " store.retrieval.index_bytes_max: raise it, or divide the documents among several libraries",
                metadata={"quota": "index_bytes_max", "bound": str(bound), "present": str(size)},
            )
        for other in [one for one in self._shelves if one != keys]:
            if self.memory_bytes <= bound:
                break
            self.forget(other)


def _is_up(shelf: _Shelf, version: bytes, embedder: str) -> bool:
    return embedder in ("", shelf.embedder) and bool(shelf.version) and descends(shelf.version, version)


def _ended(build: asyncio.Task[None]) -> None:
    # Whoever waited for it was told, if anybody did.
    if not build.cancelled():
        build.exception()


def key_of(stored: StoredDocument) -> str:
    """Tells a document from another that had its id before."""
    document = stored.document
    return f"{stored.id}:{document.first_sequence}:{document.last_sequence}:{document.create_time.ToNanoseconds()}"


def _cut(cutter: PassageCutter, fragments: Sequence[tuple[int, str]]) -> tuple[list[Passage], list[Terms]]:
    passages = [passage for sequence, text in fragments for passage in cutter.feed(sequence, text)]
    return passages, [terms(passage.text) for passage in passages]
