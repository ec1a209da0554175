"""From Valkey to the bucket: an idle session is written as one object, read back, and only then let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

import structlog
from isthmus.errors.v1 import errors_pb2

from context_store.hot.hot_session import HotSession
from context_store.log.keys import Keys
from context_store.log.stored import Reply
from context_store.session.shown import sums
from context_store.tiering.cold_log import KINDS, WIDTHS, ColdLog, Ready
from context_store.tiering.frozen import CorruptObjectError, Packer, Page, Unpacker
from context_store.tiering.object_book import ObjectBook, object_name
from context_store.tiering.objects import Objects
from services.config import TieringSettings
from services.errors import IsthmusError

META: Final = "meta"
_log: Final = structlog.get_logger("context_store")

Load: TypeAlias = Callable[[Keys], Awaitable[HotSession]]


class _ChangedError(Exception):
    """The session is not what it was when the freeze began."""


class Freezer:
    """Makes sessions objects. A freeze that breaks off anywhere leaves the session as it was, or frozen."""

    def __init__(self, log: ColdLog, book: ObjectBook, objects: Objects, load: Load, settings: TieringSettings) -> None:
        self._log = log
        self._book = book
        self._objects = objects
        self._load = load
        self._settings = settings

    async def freeze(self, keys: Keys, idle_ms: int) -> Reply:
        """FROZEN, or why not as begin_freeze.lua says it, or STALE when it changed meanwhile or took too long.

        Raises NOT_REPLICATED, UPSTREAM_UNAVAILABLE and redis' errors: then it may be frozen or not.
        """
        # Counted from before the session's time is read, as the janitor counts from there.
        until_s = asyncio.get_running_loop().time() + self._settings.freeze_ms_max / 1000
        ready = await self._log.begin_freeze(keys, idle_ms)
        if isinstance(ready, Reply):
            return ready
        hot = await self._load(keys)
        name = object_name(keys, ready.incarnation, ready.now_ms)
        place = await self._book.note(keys, ready.version, name) if hot.version == ready.version else None
        if place is None:
            return Reply("STALE")
        try:
            async with asyncio.timeout_at(until_s):
                await self._write(keys, name, ready)
                reply = await self._log.freeze(keys, ready, name, idle_ms, self._settings.freeze_ms_max, sums(hot))
        except TimeoutError:
            # The last script may still be under way: the janitor decides about the object.
            return Reply("STALE")
        except _ChangedError:
            reply = Reply("STALE")
        if reply.outcome == "FROZEN":
            await self._book.keep(place)
        else:
            await self._book.discard(keys, place)
        return reply

    async def _write(self, keys: Keys, name: str, ready: Ready) -> None:
        packer = Packer(keys.tenant, keys.session, ready.incarnation)
        await self._objects.put(name, self._dump(keys, ready, packer))
        unpacker = Unpacker()
        try:
            async for piece in self._objects.get(name):
                for _ in unpacker.feed(piece):
                    pass
            if unpacker.trailer().digest != packer.records_digest:
                raise CorruptObjectError("its digest is not that of what was written")
        except CorruptObjectError as error:
            _log.error("an object reads back otherwise than it was written", object=name, problem=str(error))
            raise _ChangedError from error
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_CORRUPT:
                raise
            # Slower than a freeze may be: the janitor has deleted it as nobody's.
            raise _ChangedError from error

    async def _dump(self, keys: Keys, ready: Ready, packer: Packer) -> AsyncIterator[bytes]:
        yield packer.begin()
        yield packer.page(Page(META, "hash", ready.fields))
        for concept, count in ready.counts.items():
            if count:
                async for page in self._pages(keys, ready, concept, count):
                    yield packer.page(page)
        yield packer.end(ready.counts)

    async def _pages(self, keys: Keys, ready: Ready, concept: str, count: int) -> AsyncIterator[Page]:
        kind, cursor, values = KINDS[concept], b"", 0
        while True:
            answer = await self._log.dump_page(keys, concept, ready.version, cursor, self._settings.page_bytes_max)
            if answer is None:
                raise _ChangedError
            cursor, flat = answer
            values += len(flat)
            yield Page(concept, kind, flat)
            if not cursor:
                break
        # Nothing is let go that was not read.
        if values < count * WIDTHS[kind]:
            raise _ChangedError
