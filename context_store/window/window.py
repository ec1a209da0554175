"""The window of a session: an epoch's base and the log after it, with its digest chain. Pure.

Taking in what is new costs as much as there is new, whatever the length of the window: the chain's points are kept,
16 bytes an item, in one bytearray.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import TypeAlias

from context_store.hot.history import History, Tally
from context_store.window.epoch import Base
from context_store.window.summaries import SummaryRef
from services.digest import DIGEST_BYTES, EMPTY, chain

# A fragment by its sequence number, or a summary.
Item: TypeAlias = int | SummaryRef

# A window for twice the room is worth a new epoch where the present one leaves something out.
ROOM_GROWTH = 2


class Window:
    """All items of the epoch up to the log's end, in order; a turn's window is the first so many of them."""

    def __init__(self, base: Base, history: History) -> None:
        self.base = base
        self._history = history
        self._head: tuple[Item, ...] = (*base.pinned, *base.summaries)
        self._tail = array("q")
        self._points = bytearray()
        self._next = base.tail_from
        self._tally = Tally()
        for item in self._head:
            self._add(item)
        self.grow()

    def _add(self, item: Item) -> None:
        digest = item.digest if isinstance(item, SummaryRef) else self._history.digest(item)
        self._tally += self._cost(item)
        self._points += chain(self.digest(len(self)), digest)

    def _cost(self, item: Item) -> Tally:
        return Tally(item.tokens, 0) if isinstance(item, SummaryRef) else self._history.cost(item)

    def grow(self) -> None:
        """Takes in what the log has gained."""
        for sequence in self._history.live(self._next, self._history.revision):
            self._add(sequence)
            self._tail.append(sequence)
        self._next = max(self._next, self._history.revision + 1)

    def truncate(self, sequence: int) -> None:
        """Lets go of the fragments of the tail from `sequence` on; `grow` takes in again what is not void by then."""
        while self._tail and self._tail[-1] >= sequence:
            self._tally -= self._cost(self._tail.pop())
            del self._points[-DIGEST_BYTES:]
        self._next = min(self._next, max(sequence, self.base.tail_from))

    def recount(self, before: Tally, after: Tally) -> None:
        """Takes over that an item's tokens were counted anew."""
        self._tally += after - before

    def holds(self, sequence: int) -> bool:
        """Whether the fragment is in the window, in its own words or within a summary."""
        if self.base.tail_from <= sequence < self._next:
            return not self._history.is_void(sequence)
        return sequence in self.base.pinned or any(one.covers(sequence) for one in self.base.summaries)

    def holds_verbatim(self, sequence: int) -> bool:
        if self.base.tail_from <= sequence < self._next:
            return not self._history.is_void(sequence)
        return sequence in self.base.pinned

    def __len__(self) -> int:
        return len(self._points) // DIGEST_BYTES

    def __getitem__(self, index: int) -> Item:
        return self._head[index] if index < len(self._head) else self._tail[index - len(self._head)]

    def items(self, start: int, stop: int) -> Iterator[Item]:
        return (self[index] for index in range(start, stop))

    def digest(self, count: int) -> bytes:
        """The chain's point after `count` items."""
        return bytes(self._points[(count - 1) * DIGEST_BYTES : count * DIGEST_BYTES]) if count else EMPTY

    def count_to(self, sequence: int) -> int:
        """How many items the window of a turn has whose last message is `sequence`."""
        return len(self._head) + bisect_right(self._tail, sequence)

    def prefix_count(self, done_input: int) -> int:
        """How many items of this window the latest done turn's window had, if it began with the same ones; else 0.

        `done_input` is the last sequence number of that turn's messages, 0 if there is no such turn.
        """
        return self.count_to(done_input) if done_input and done_input >= self.base.began else 0

    def tally(self, count: int) -> Tally:
        """The tokens of the first `count` items."""
        behind = Tally()
        for index in range(count, len(self)):
            behind += self._cost(self[index])
        return self._tally - behind

    def suits(self, tokens: int, tokens_max: int) -> bool:
        """Whether a turn whose window would have `tokens` can stay in this epoch."""
        outgrown = bool(self.base.left_out_tokens) and tokens_max >= ROOM_GROWTH * self.base.tokens_max
        return tokens <= tokens_max and not outgrown

    @property
    def memory_bytes(self) -> int:
        return len(self._points) + len(self._tail) * self._tail.itemsize + 256 * len(self._head)
