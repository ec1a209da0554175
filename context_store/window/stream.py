"""Windows as they are read: from the longest prefix that the caller has, a page of texts at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeAlias

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2

from context_store.hot.hot_session import HotSession
from context_store.log.keys import Keys
from context_store.store import Store, keys_of
from context_store.turn.finding import too_large
from context_store.window.epoch import TurnTooLargeError
from context_store.window.manifests import Manifests, item_size, report
from context_store.window.window import Item, Window
from services.errors import IsthmusError

PAGE_ITEMS_MAX = 1_000

# A message of the stream, and the item that the next one begins with.
_Page: TypeAlias = tuple[api.ReadWindowResponse, int]


class WindowService:
    """Serves replicas that lack a window, and previews."""

    def __init__(self, store: Store, manifests: Manifests) -> None:
        self._store = store
        self._manifests = manifests

    async def read(self, request: api.ReadWindowRequest) -> AsyncIterator[api.ReadWindowResponse]:
        """Streams the window that `epoch` and `end` name; WINDOW_CHANGED if the session has another one by now."""
        keys = keys_of(request.key)
        hot = await self._holding(keys, request)
        start = _common_prefix(hot.window, request.have, request.end.item_count)
        first = window_pb2.Checkpoint(item_count=start, digest=hot.window.digest(start))
        opening = api.ReadWindowResponse()
        getattr(opening, "from").CopyFrom(first)
        coming = self._coming(hot, start, request)
        try:
            yield opening
            while coming:
                page, start = await self._arrived(keys, request, coming, start)
                # The next page is on its way from Valkey while the caller takes this one in.
                coming = self._coming(await self._holding(keys, request), start, request)
                yield page
        finally:
            if coming:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    def _coming(self, hot: HotSession, start: int, request: api.ReadWindowRequest) -> asyncio.Task[_Page] | None:
        """The next page on its way. Its items are chosen at once: the copy may change before the task begins."""
        end = request.end.item_count
        if start >= end:
            return None
        stop = self._page_end(hot, start, end)
        return asyncio.create_task(self._page(hot, list(hot.window.items(start, stop)), stop))

    async def _page(self, hot: HotSession, parts: list[Item], stop: int) -> _Page:
        page = api.ReadWindowResponse()
        await self._manifests.write(page.items, hot, parts)
        return page, stop

    async def _arrived(
        self, keys: Keys, request: api.ReadWindowRequest, coming: asyncio.Task[_Page], start: int
    ) -> _Page:
        """The page; WINDOW_CHANGED where a fragment of it was erased while it was on its way."""
        try:
            return await coming
        except IsthmusError as error:
            if error.reason not in (errors_pb2.ERROR_REASON_CORRUPT, errors_pb2.ERROR_REASON_REVISION_CONFLICT):
                raise
        # An old copy may have the same window of other fragments: of a turn that came to nothing, erased since.
        await self._store.read(keys)
        hot = await self._holding(keys, request)
        stop = self._page_end(hot, start, request.end.item_count)
        return await self._page(hot, list(hot.window.items(start, stop)), stop)

    async def _holding(self, keys: Keys, request: api.ReadWindowRequest) -> HotSession:
        """The copy that has this window: the one at hand, or else the newest."""
        async with self._store.sessions.hold(keys) as slot:
            hot = await self._store.sessions.current(slot)
            if not _has(hot.window, request):
                hot = await self._store.sessions.fresh(slot)
        if not _has(hot.window, request):
            raise IsthmusError(
                errors_pb2.ERROR_REASON_WINDOW_CHANGED,
                f"sessions/{keys.session}: epoch {request.epoch} with {request.end.item_count} items is not its window"
                " any more; expected the manifest of the open turn",
            )
        return hot

    def _page_end(self, hot: HotSession, start: int, end: int) -> int:
        size = 0
        stop = min(end, start + PAGE_ITEMS_MAX)
        for index in range(start, stop):
            size += item_size(hot, hot.window[index])
            if size > self._store.settings.chunk_bytes_max and index > start:
                return index
        return stop

    async def preview(self, request: api.PreviewWindowRequest) -> api.PreviewWindowResponse:
        """What the next turn's window would begin with."""
        hot = await self._store.read(keys_of(request.key), at_owner=True)
        limit = hot.limit(request.window_tokens_max)
        try:
            plan = hot.plan([], limit)
        except TurnTooLargeError as error:
            raise too_large(error) from error
        window = Window(plan.base, hot.history) if plan.base else hot.window
        count = len(window)
        return api.PreviewWindowResponse(
            report=report(window, count), tokens=window.tally(count).tokens(hot.scale), tokens_max=limit
        )


def _has(window: Window, request: api.ReadWindowRequest) -> bool:
    count = request.end.item_count
    return window.base.epoch == request.epoch and count <= len(window) and window.digest(count) == request.end.digest


def _common_prefix(window: Window, have: Iterable[window_pb2.Checkpoint], end: int) -> int:
    counts = (
        point.item_count
        for point in have
        if point.item_count <= end and window.digest(point.item_count) == point.digest
    )
    return max(counts, default=0)
