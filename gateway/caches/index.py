"""The questions of one scope by their vectors, as this gateway has them in memory. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from gateway.caches.entry import Entry

_STORED: Final = "<f2"


class Index:
    """Entries by id, and FAISS over those that have a vector of one embedder: the first that came."""

    def __init__(self) -> None:
        self.born = 0
        self.version = 0
        self.wrong: frozenset[str] = frozenset()
        self._entries: dict[int, Entry] = {}
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._embedder = ""
        self._faiss: Any = None

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """As if nothing had been read."""
        self.__init__()  # type: ignore[misc]

    def put(self, entry: Entry) -> None:
        """The entry, in place of one that had its id; one without a vector, or of another embedder, is not found."""
        self.remove(entry.id)
        if not entry.vector:
            return
        vector = np.frombuffer(entry.vector, dtype=_STORED).astype(np.float32)[None, :]
        if self._faiss is None or not self._entries:
            import faiss

            self._embedder, self._faiss = entry.embedder, faiss.IndexIDMap2(faiss.IndexFlatIP(vector.shape[1]))
        if entry.embedder != self._embedder or vector.shape[1] != self._faiss.d:
            return
        self._faiss.add_with_ids(vector, np.array([self._next], dtype=np.int64))
        self._entries[self._next], self._numbers[entry.id] = entry, self._next
        self._next += 1

    def remove(self, entry_id: str) -> None:
        """Without the entry of this id, if there is one."""
        number = self._numbers.pop(entry_id, None)
        if number is not None:
            del self._entries[number]
            self._faiss.remove_ids(np.array([number], dtype=np.int64))

    def near(self, vector: bytes, embedder: str, count: int, cosine_min: float) -> Iterator[tuple[Entry, float]]:
        """At most so many entries with their cosines, nearest first."""
        if not self._entries or embedder != self._embedder:
            return
        query = np.frombuffer(vector, dtype=_STORED).astype(np.float32)[None, :]
        if query.shape[1] != self._faiss.d:
            return
        cosines, numbers = self._faiss.search(query, min(count, len(self._entries)))
        for cosine, number in zip(cosines[0], numbers[0], strict=True):
            if number >= 0 and cosine >= cosine_min:
                yield self._entries[int(number)], min(1.0, float(cosine))


def packed(vector: bytes) -> bytes:
    """A vector of little-endian float32, as entries keep it."""
    return np.frombuffer(vector, dtype="<f4").astype(_STORED).tobytes()


def unit(values: Sequence[float]) -> bytes:
    """A vector of length one, as entries keep it."""
    vector = np.asarray(values, dtype=np.float64)
    return (vector / max(1e-12, float(np.linalg.norm(vector)))).astype(_STORED).tobytes()
