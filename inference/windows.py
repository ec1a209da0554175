"""Windows as a replica keeps them: digest chain and token ids, so that a turn tokenises only what is new.

Pure: arrays and bytes, no clock and no I/O. A window only grows at its end or is cut back to a common prefix; an array
that was handed out is never written to again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.tokenizer import TokenIds
from services.digest import DIGEST_BYTES, EMPTY, chain

CHECKPOINTS_MAX: Final = 64
_DENSE: Final = 24  # the last points one by one
_DOUBLINGS_BACK: Final = 24  # then at doubling distances from the end
_DOUBLINGS_AHEAD: Final = 15  # and at doubling distances from the start, where pinned items survive an epoch


class Point(NamedTuple):
    """A place on a digest chain: after how many items, which digest, how many tokens."""

    items: int
    digest: bytes
    tokens: int


class _Growing:
    """A numpy array that grows at its end by doubling, and copies before it would write under a view."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._array: NDArray[Any] = np.empty(64, dtype=dtype)
        self._size = 0
        self._written = 0  # cells that a view may show

    def __len__(self) -> int:
        return self._size

    @property
    def size_bytes(self) -> int:
        return self._array.nbytes

    def view(self) -> NDArray[Any]:
        return self._array[: self._size]

    def extend(self, values: NDArray[Any]) -> None:
        size = self._size + len(values)
        if size > len(self._array) or self._size < self._written:
            fresh = np.empty(max(size, len(self._array) if size <= len(self._array) else 2 * size), self._array.dtype)
            fresh[: self._size] = self._array[: self._size]
            self._array = fresh
        self._array[self._size : size] = values
        self._size = self._written = size

    def truncate(self, size: int) -> None:
        self._size = size


class Window:
    """One session's window: for each item its place on the digest chain, its mark and where its tokens end."""

    def __init__(self) -> None:
        self._chain = bytearray(EMPTY)
        self._marks = _Growing(np.int64)
        self._ends = _Growing(np.int64)
        self._ids = _Growing(np.int32)
        self.reply: Reply | None = None

    @property
    def items(self) -> int:
        """How many items it holds."""
        return len(self._ends)

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return len(self._ids)

    @property
    def size_bytes(self) -> int:
        """The memory it takes, reserve included."""
        reply = self.reply.ids.nbytes if self.reply else 0
        return len(self._chain) + self._marks.size_bytes + self._ends.size_bytes + self._ids.size_bytes + reply

    @property
    def end(self) -> Point:
        """Its end."""
        return self.point(self.items)

    @property
    def ids(self) -> TokenIds:
        """All its token ids; the array stays as it is, whatever becomes of the window."""
        return self._ids.view()

    @property
    def mark(self) -> int:
        """The last item's mark, 0 for an empty window."""
        return int(self._marks.view()[-1]) if self.items else 0

    def point(self, items: int) -> Point:
        """The place after `items` items, 0 <= items <= self.items."""
        digest = bytes(self._chain[items * DIGEST_BYTES : (items + 1) * DIGEST_BYTES])
        return Point(items, digest, int(self._ends.view()[items - 1]) if items else 0)

    def holds(self, items: int, digest: bytes) -> bool:
        """Whether the chain's point after `items` items is `digest`: the first `items` items are then the same."""
        return 0 <= items <= self.items and self.point(items).digest == digest

    def append(self, digest: bytes, mark: int, ids: TokenIds) -> None:
        """Adds an item by the digest of its content."""
        self._chain += chain(self.end.digest, digest)
        self._marks.extend(np.asarray([mark], dtype=np.int64))
        self._ids.extend(ids)
        self._ends.extend(np.asarray([len(self._ids)], dtype=np.int64))

    def truncate(self, items: int) -> None:
        """Keeps the first `items` items."""
        tokens = self.point(items).tokens
        del self._chain[(items + 1) * DIGEST_BYTES :]
        self._marks.truncate(items)
        self._ends.truncate(items)
        self._ids.truncate(tokens)

    def checkpoints(self) -> list[Point]:
        """At most 64 points, the longest prefix first: every one near the end, ever fewer before."""
        return [self.point(items) for items in checkpoint_items(self.items)]


class Reply(NamedTuple):
    """The last reply that was generated on a window: the ids the model made of a text with this digest."""

    text_digest: bytes
    ids: TokenIds


def checkpoint_items(items: int) -> list[int]:
    """Which points of a chain of `items` items to offer: descending, without 0, at most CHECKPOINTS_MAX."""
    back = [items - back for back in range(_DENSE)]
    back += [items - _DENSE + 1 - (1 << step) for step in range(_DOUBLINGS_BACK)]
    ahead = [1 << step for step in range(_DOUBLINGS_AHEAD)]
    return sorted({count for count in back + ahead if 0 < count <= items}, reverse=True)


class WindowCache:
    """The windows of the sessions seen last, `bytes_max` in all, least recently used first out.

    Whoever works on a window takes it out and puts it back: no two calls ever grow the same one. A second call for
    the same session meanwhile finds none and reads its window anew.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._windows: OrderedDict[tuple[str, str], tuple[Window, int]] = OrderedDict()
        self.held_bytes = 0

    def take(self, tenant: str, session: str) -> Window:
        """The session's window, now the caller's; an empty one if there is none."""
        window, size = self._windows.pop((tenant, session), (None, 0))
        self.held_bytes -= size
        return window if window is not None else Window()

    def put(self, tenant: str, session: str, window: Window) -> None:
        """Keeps the window, in place of another that came in meanwhile, as long as there is room."""
        self.take(tenant, session)
        size = window.size_bytes
        self._windows[tenant, session] = (window, size)
        self.held_bytes += size
        while self.held_bytes > self._bytes_max:
            _, (_, size) = self._windows.popitem(last=False)
            self.held_bytes -= size

    def forget(self, tenant: str, session: str) -> int:
        """Drops the session's window; its bytes, 0 if there was none."""
        held_bytes = self.held_bytes
        self.take(tenant, session)
        return held_bytes - self.held_bytes

    def remember_reply(self, tenant: str, session: str, reply: Reply) -> None:
        """Keeps the ids of the reply just generated, if the session's window is still here."""
        if (tenant, session) in self._windows:
            window = self.take(tenant, session)
            window.reply = reply
            self.put(tenant, session, window)
