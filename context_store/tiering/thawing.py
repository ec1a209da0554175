"""From the bucket back to Valkey: a cold session is made warm by whoever needs it first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2

from context_store.log.keys import Keys
from context_store.tiering.cold_log import ColdLog
from context_store.tiering.freezing import META
from context_store.tiering.frozen import CorruptObjectError, Page, Trailer, Unpacker
from context_store.tiering.indexes import Indexes
from context_store.tiering.object_book import ObjectBook
from context_store.tiering.objects import Objects
from services.config import TieringSettings
from services.errors import IsthmusError, NotFound

_log: Final = structlog.get_logger("context_store")


class Thawer:
    """Brings sessions back, each once at a time in this process; two processes may do it at once."""

    def __init__(
        self, log: ColdLog, book: ObjectBook, indexes: Indexes, objects: Objects, settings: TieringSettings
    ) -> None:
        self._log = log
        self._book = book
        self._indexes = indexes
        self._objects = objects
        self._settings = settings
        self._places = asyncio.Semaphore(settings.thaws_count_max)
        self._running: dict[Keys, asyncio.Task[None]] = {}

    async def thaw(self, keys: Keys) -> None:
        """Returns when the session is warm, whoever did it.

        A caller that goes away leaves the thaw under way. Raises NotFound, CORRUPT (nothing was changed) where the
        object is not what was written, OVERLOADED where too many sessions come back, UPSTREAM_UNAVAILABLE.
        """
        task = self._running.get(keys)
        if task is None:
            task = self._running[keys] = asyncio.create_task(self._bounded(keys))
            task.add_done_callback(lambda done: self._ended(keys, done))
        await asyncio.shield(task)

    async def stop(self) -> None:
        """Breaks off what is under way: the next touch goes on with it."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, keys: Keys, task: asyncio.Task[None]) -> None:
        del self._running[keys]
        # Its callers were told, if there are any left.
        if not task.cancelled():
            task.exception()

    async def _bounded(self, keys: Keys) -> None:
        try:
            async with asyncio.timeout(self._settings.thaw_wait_ms_max / 1000):
                await self._places.acquire()
        except TimeoutError:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_OVERLOADED,
                f"sessions/{keys.session} is an object and waits to come back behind others; expected a place within"
                f" {self._settings.thaw_wait_ms_max} ms (tiering.thaws_count_max is {self._settings.thaws_count_max})",
            ) from None
        try:
            await self._thaw(keys)
        finally:
            self._places.release()

    async def _thaw(self, keys: Keys) -> None:
        exists, name, incarnation = await self._log.place(keys)
        if not exists:
            raise NotFound(f"sessions/{keys.session}")
        if not name:
            return
        try:
            whole = await self._verified(keys, name, incarnation)
            try:
                await self._write(keys, name, whole)
            except CorruptObjectError:
                # The object is sound: pages that were written back were lost with a primary.
                await self._write(keys, name, whole)
        except (CorruptObjectError, IsthmusError) as error:
            # Another shard that was first deletes the object while it is read here.
            if (await self._log.place(keys))[:2] != (True, name):
                return
            raise _told(keys, name, error) from error

    async def _verified(self, keys: Keys, name: str, incarnation: bytes) -> list[bytes]:
        """Reads the object to its end before anything is written. The bytes, if they are few; else none."""
        unpacker, pieces, size = Unpacker(), list[bytes](), 0
        async for piece in self._objects.get(name):
            size += len(piece)
            pieces.append(piece)
            if size > self._settings.chunk_bytes_max:
                pieces.clear()
            for _ in unpacker.feed(piece):
                pass
        unpacker.trailer()
        if not unpacker.belongs_to(keys.tenant, keys.session, incarnation):
            raise CorruptObjectError("its header names another session")
        return pieces if size <= self._settings.chunk_bytes_max else []

    async def _write(self, keys: Keys, name: str, whole: list[bytes]) -> None:
        unpacker, fields = Unpacker(), list[bytes]()
        async for page in _pages(unpacker, _pieces(whole) if whole else self._objects.get(name)):
            if page.key == META:
                fields = page.flat
            elif not await self._log.thaw_page(keys, name, page):
                return
        await self._finish(keys, name, unpacker.trailer(), fields)

    async def _finish(self, keys: Keys, name: str, trailer: Trailer, fields: list[bytes]) -> None:
        # Both before the session is warm: after a crash the janitor finds it, and the object that it has left.
        await self._indexes.touch([keys])
        place = await self._book.note_due(keys, name)
        reply = await self._log.thaw(keys, name, trailer.counts, fields)
        if reply.outcome == "SHORT":
            raise CorruptObjectError(f"key {reply.values[0]} of the session has {reply.values[1]} things after it")
        if reply.outcome == "THAWED":
            await self._book.discard(keys, place)


def _told(keys: Keys, name: str, error: Exception) -> IsthmusError:
    if isinstance(error, IsthmusError):
        return error
    return IsthmusError(
        errors_pb2.ERROR_REASON_CORRUPT,
        f"sessions/{keys.session}: object {name} cannot be read back: {error}; expected the bytes that were verified"
        " when it was written, restore it from a backup",
    )


async def _pages(unpacker: Unpacker, pieces: AsyncIterator[bytes]) -> AsyncIterator[Page]:
    async for piece in pieces:
        for page in unpacker.feed(piece):
            yield page


async def _pieces(whole: list[bytes]) -> AsyncIterator[bytes]:
    for piece in whole:
        yield piece
