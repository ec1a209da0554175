"""Windows as they are read: from the longest prefix that the caller has, a page of texts at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2

from context_store.epoch import TurnTooLargeError
from context_store.hot_session import HotSession
from context_store.keys import Keys
from context_store.manifests import Manifests, item_size, report
from context_store.opening import too_large
from context_store.store import Store, keys_of
from context_store.window import Window
from services.errors import IsthmusError

PAGE_ITEMS_MAX = 1_000


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
        yield opening
        while start < request.end.item_count:
            stop = self._page_end(hot, start, request.end.item_count)
            items = await self._manifests.items(hot, list(hot.window.items(start, stop)))
            yield api.ReadWindowResponse(items=items)
            start = stop
            # The session may have been written to, evicted or erased from while the page was on its way.
            hot = await self._holding(keys, request)

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
        hot = await self._store.read(keys_of(request.key))
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
