"""Asking the compressor for vectors of documents, from a task of its own.

Nothing waits for it. What is lost when a process dies is asked for again by whoever waits for the vectors: each look at
a document, and each search, announces what has none yet, and the job's key makes one job of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog
from redis.exceptions import RedisError

from context_store.log.keys import Keys
from context_store.log.stored_documents import StoredDocument
from services.collections import LIBRARY, collection_of
from services.config import StoreSettings
from services.long_task import LongTask

# Asks for the vectors of a document: tenant, session and document.
Enqueue: TypeAlias = Callable[[str, str, str], Awaitable[None]]
_Place: TypeAlias = tuple[str, str, str]

_log: Final = structlog.get_logger("document events")


class DocumentEvents:
    """A bounded line of documents in front of the job queue; what does not fit is announced later."""

    def __init__(self, enqueue: Enqueue, settings: StoreSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._enqueue = enqueue
        self._settings = settings
        self._clock = clock
        self._pending: OrderedDict[_Place, None] = OrderedDict()
        # When documents were announced last.
        self._announced: OrderedDict[_Place, float] = OrderedDict()
        self._wake = asyncio.Event()
        self._task = LongTask()

    def start(self) -> None:
        self._task.start(self._run(), "document events")

    async def stop(self) -> None:
        """Ends the task; what is pending is announced when somebody looks at it again."""
        await self._task.stop()

    def announce(self, keys: Keys, stored: StoredDocument, embedder: str = "") -> None:
        """Puts a document in line that lacks vectors: a library's, complete, and not given up."""
        place = (keys.tenant, keys.session, stored.id)
        bound = self._settings.retrieval.announced_count_max
        if not lacks_vectors(keys, stored, embedder) or place in self._pending or len(self._pending) >= bound:
            return
        now, again_s = self._clock(), self._settings.retrieval.announce_again_ms / 1000
        if now - self._announced.get(place, -again_s) < again_s:
            return
        self._announced[place] = now
        self._announced.move_to_end(place)
        while len(self._announced) > bound:
            self._announced.popitem(last=False)
        self._pending[place] = None
        self._wake.set()

    async def _run(self) -> None:
        settings = self._settings
        retry_ms = settings.events_retry_ms_min
        while True:
            await self._wake.wait()
            try:
                while self._pending:
                    first = next(iter(self._pending))
                    await self._enqueue(*first)
                    self._pending.pop(first, None)
                    retry_ms = settings.events_retry_ms_min
                self._wake.clear()
            except (RedisError, OSError) as error:
                _log.warning("document not announced yet", error=str(error), retry_ms=retry_ms)
                await asyncio.sleep(retry_ms / 1000)
                retry_ms = min(2 * retry_ms, settings.events_retry_ms_max)


def lacks_vectors(keys: Keys, stored: StoredDocument, embedder: str) -> bool:
    """Whether a document had better be embedded: by `embedder`, if one is wanted, else by any."""
    if collection_of(keys.session) != LIBRARY or not stored.is_complete or stored.is_gone:
        return False
    state = stored.state
    if state is None or not state.is_final:
        return True
    return bool(embedder and state.passage_count) and not state.error_code and state.embedder != embedder
