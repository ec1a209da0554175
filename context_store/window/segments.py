"""Raw segments: the spans of the log that level-1 summaries are made from. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from context_store.hot.history import History
from context_store.log.fragments import estimate_tokens


class Segments:
    """Cuts a log into consecutive segments of about `tokens` estimated tokens, as it grows.

    A segment is closed by the fragment that fills it. Void fragments weigh nothing, erased ones what they weighed
    when they were written, and the log behind an open turn waits until the turn is closed. So the bounds follow from
    the log alone: every shard finds the same ones at any time.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._filled = 0
        self._next = 1
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> tuple[int, int]:
        """First and last sequence number of a closed segment."""
        return (self._ends[index - 1] + 1 if index else 1), self._ends[index]

    @property
    def memory_bytes(self) -> int:
        return len(self._ends) * self._ends.itemsize

    def advance(self, history: History, settled: int) -> None:
        """Takes in the log up to `settled`, the last sequence number before an open turn's messages."""
        for sequence in range(self._next, settled + 1):
            self._filled += self._weight(history, sequence)
            if self._filled >= self._tokens:
                self._ends.append(sequence)
                self._filled = 0
        self._next = max(self._next, settled + 1)

    @staticmethod
    def _weight(history: History, sequence: int) -> int:
        if history.is_void(sequence) and not history.is_erased(sequence):
            return 0
        size = history.size(sequence)
        return estimate_tokens(size) if size else 0

    def holding(self, sequence: int) -> int | None:
        """Index of the closed segment that holds `sequence`."""
        index = bisect_left(self._ends, sequence)
        return index if index < len(self._ends) else None
