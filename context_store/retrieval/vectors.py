"""Vectors of passages in memory, in half precision under FAISS: the nearest ones, and the cosines of any. No I/O."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.int64]

_NONE: Final = -1


class VectorIndex:
    """Unit vectors by the numbers of their passages, all of one embedder.

    A passage whose document is gone keeps its row: searches leave it out by their mask, until the index is built anew.
    """

    def __init__(self, embedder: str, dimensions: int) -> None:
        import faiss

        # Loading takes a tenth of a second, which a shard that nobody searches in does not need.
        self.embedder = embedder
        self.dimensions = dimensions
        self._faiss: Any = faiss
        self._index = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._passages: Numbers = np.empty(0, np.int64)
        self._rows: Numbers = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._passages)

    @property
    def memory_bytes(self) -> int:
        return 2 * self.dimensions * len(self) + self._passages.nbytes + self._rows.nbytes

    def add(self, passages: Numbers, vectors: Floats) -> None:
        """Adds vectors [n, dimensions] of these passages, which have none yet."""
        first = len(self)
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self._passages = np.concatenate([self._passages, passages])
        high = int(self._passages.max(initial=_NONE)) + 1
        if high > len(self._rows):
            self._rows = np.concatenate([self._rows, np.full(high - len(self._rows), _NONE, np.int64)])
        self._rows[passages] = np.arange(first, first + len(passages))

    def nearest(self, query: Floats, count: int, searched: NDArray[np.bool_]) -> Numbers:
        """The passages nearest to a unit vector, at most `count`, of those that are searched."""
        selected = searched[self._passages]
        if np.count_nonzero(selected) <= count:
            return self._passages[selected]
        bits = np.packbits(selected, bitorder="little")
        selector = self._faiss.IDSelectorBitmap(bits)
        params = self._faiss.SearchParameters(sel=selector)
        _, rows = self._index.search(query[None, :], count, params=params)
        found: Numbers = self._passages[rows[0][rows[0] >= 0]]
        return found

    def has(self, passages: Numbers) -> NDArray[np.bool_]:
        """Which of the passages have a vector."""
        return self._row(passages) >= 0

    def cosines(self, query: Floats, passages: Numbers, joined: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """For each passage, the query's cosine with its vector, and with the mean of its and its neighbours' vectors.

        Only passages that have a vector may be asked about.
        """
        own = self._vectors(passages)
        before = (passages > 0) & joined[np.maximum(passages - 1, 0)]
        behind = joined[passages]
        around = own + self._vectors(np.where(before, passages - 1, _NONE))
        around += self._vectors(np.where(behind, passages + 1, _NONE))
        return own @ query, (around @ query) / np.maximum(np.linalg.norm(around, axis=1), 1e-12)

    def _vectors(self, passages: Numbers) -> Floats:
        """Vectors, zero where a passage has none."""
        rows = self._row(passages)
        found = np.zeros((len(passages), self.dimensions), np.float32)
        there = np.flatnonzero(rows >= 0)
        if len(there):
            found[there] = self._index.reconstruct_batch(rows[there])
        return found

    def _row(self, passages: Numbers) -> Numbers:
        known = (passages >= 0) & (passages < len(self._rows))
        rows: Numbers = np.where(known, self._rows[np.where(known, passages, 0)] if len(self._rows) else _NONE, _NONE)
        return rows
