"""The index of one session's documents: which passages there are, their words, their vectors. No I/O.

Passages are numbered as their documents come; a document has consecutive numbers. What is deleted leaves its numbers
unused, and an index that is mostly unused had better be built anew (`wasted_count`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from context_store.retrieval.fusion import fused
from context_store.retrieval.vectors import VectorIndex
from context_store.retrieval.words import Segment, Terms, bm25, merged_tiers, query_terms
from services.passages import Passage

Numbers: TypeAlias = NDArray[np.int64]

# Passages of which both kinds of signals are weighed exactly: the best by words, and the nearest by vectors.
CANDIDATES_COUNT: Final = 1_024


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: `vector` is of unit length, None for words alone."""

    text: str
    vector: NDArray[np.float32] | None = None
    embedder: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A passage by its document's key and its place in it, with its score."""

    document: str
    start_byte: int
    end_byte: int
    # Bytes of its first fragment before it.
    lead_bytes: int
    first_sequence: int
    last_sequence: int
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The best passages, best first."""

    found: list[Found]
    words_only: bool


@dataclass(slots=True)
class Indexed:
    """A document in the index: `first` is the number of its first passage."""

    key: str
    first: int
    count: int
    last_sequence: int
    # How many of its passages have vectors here.
    embedded_count: int = 0


class LibraryIndex:
    """Searches the passages of documents; these are told apart by keys of the caller's."""

    def __init__(self) -> None:
        self.documents: dict[str, Indexed] = {}
        self._segments: list[Segment] = []
        # Of each passage: where it begins and ends, its lead, its first and last sequence, which of `_owners` it is of.
        self._places: NDArray[np.int64] = np.empty((0, 6), np.int64)
        # The document that is being added, and the number of its first passage.
        self._adding = ""
        self._coming = 0
        self._lengths: NDArray[np.float32] = np.empty(0, np.float32)
        self._joined: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._owners: list[str] = []
        self._vectors: VectorIndex | None = None

    @property
    def memory_bytes(self) -> int:
        """About what it takes in memory."""
        words = sum(segment.memory_bytes for segment in self._segments)
        tables = self._places.nbytes + self._lengths.nbytes + self._joined.nbytes
        return words + tables + (self._vectors.memory_bytes if self._vectors else 0) + 512 * len(self._owners)

    @property
    def passage_count(self) -> int:
        """Of the documents that are there."""
        return sum(one.count for one in self.documents.values())

    @property
    def wasted_count(self) -> int:
        """The passages of documents that are gone."""
        return len(self._places) - self.passage_count

    @property
    def embedder(self) -> str:
        """Whose vectors there are, empty for nobody's."""
        return self._vectors.embedder if self._vectors else ""

    def append(self, key: str, passages: Sequence[Passage], words: Sequence[Terms]) -> None:
        """Adds the next passages of a document, each with its words as `terms` makes them; nobody finds them yet.

        One document is added at a time.
        """
        if self._adding != key:
            self._adding, self._coming = key, len(self._places)
            self._owners.append(key)
        elif self._coming < len(self._places):
            self._joined[-1] = True
        if not passages:
            return
        first, owner = len(self._places), len(self._owners) - 1
        self._places = np.concatenate([self._places, np.array([_row(one, owner) for one in passages], np.int64)])
        self._lengths = np.concatenate([self._lengths, np.array([len(one) for one in words], np.float32)])
        joined = np.ones(len(passages), np.bool_)
        joined[-1] = False
        self._joined = np.concatenate([self._joined, joined])
        self._segments = merged_tiers([*self._segments, Segment.of(words, first)])

    def begin(self) -> None:
        """Gives up a document that was not completed, if there is one."""
        self._adding = ""

    def complete(self, key: str, last_sequence: int) -> None:
        """Has the document found whose passages were added last."""
        self._adding = ""
        self.documents[key] = Indexed(key, self._coming, len(self._places) - self._coming, last_sequence)

    def remove(self, key: str) -> None:
        """Takes a document out of every search from now on."""
        self.documents.pop(key, None)

    def use_embedder(self, embedder: str, dimensions: int) -> None:
        """Has vectors of this embedder alone; those of another are let go of."""
        if self.embedder != embedder or (self._vectors and self._vectors.dimensions != dimensions):
            self._vectors = VectorIndex(embedder, dimensions)
            for document in self.documents.values():
                document.embedded_count = 0

    def add_vectors(self, key: str, vectors: NDArray[np.float32]) -> None:
        """Adds the vectors of a document's next passages, of the embedder that is used."""
        document = self.documents[key]
        start = document.first + document.embedded_count
        if self._vectors is not None:
            self._vectors.add(np.arange(start, start + len(vectors), dtype=np.int64), vectors)
            document.embedded_count += len(vectors)

    def search(self, query: Query, keys: Collection[str], limit: int, score_min: float = 0.0) -> Answer:
        """The best passages of these documents, as far as they are there."""
        searched = self._searched(keys)
        scores = bm25(self._segments, query_terms(query.text), self._lengths, self._joined, searched)
        candidates = _best(scores.alone, scores.around, searched)
        vectors = self._vectors
        if vectors is None or query.vector is None or query.embedder != vectors.embedder:
            ranks = fused((scores.alone[candidates], scores.around[candidates]), None, None)
            return Answer(self._shown(candidates, ranks, limit, max(score_min, 1e-9)), words_only=True)
        near = vectors.nearest(query.vector, CANDIDATES_COUNT, searched)
        candidates = np.union1d(candidates, self._with_neighbours(near, searched))
        has = vectors.has(candidates)
        cosines = vectors.cosines(query.vector, candidates[has], self._joined)
        ranks = fused((scores.alone[candidates], scores.around[candidates]), cosines, has)
        return Answer(self._shown(candidates, ranks, limit, score_min), words_only=not has.any())

    def _searched(self, keys: Collection[str]) -> NDArray[np.bool_]:
        searched = np.zeros(len(self._places), np.bool_)
        for key in keys:
            document = self.documents.get(key)
            if document:
                searched[document.first : document.first + document.count] = True
        return searched

    def _with_neighbours(self, passages: Numbers, searched: NDArray[np.bool_]) -> Numbers:
        before, behind = passages - 1, passages + 1
        joined = np.append(self._joined, False)
        near: Numbers = np.concatenate([passages, before[(before >= 0) & joined[before]], behind[joined[passages]]])
        found: Numbers = near[searched[near]]
        return found

    def _shown(self, passages: Numbers, ranks: NDArray[np.float32], limit: int, score_min: float) -> list[Found]:
        # By score, and the earlier one of equals first.
        order = np.lexsort((passages, -ranks))[:limit]
        found = []
        for at in order:
            if ranks[at] < score_min:
                break
            start, end, lead, first, last, owner = (int(value) for value in self._places[passages[at]])
            found.append(Found(self._owners[owner], start, end, lead, first, last, min(1.0, float(ranks[at]))))
        return found


def _row(passage: Passage, owner: int) -> tuple[int, ...]:
    end = passage.start_byte + len(passage.text.encode())
    return passage.start_byte, end, passage.lead_bytes, passage.first_sequence, passage.last_sequence, owner


def _best(alone: NDArray[np.float32], around: NDArray[np.float32], searched: NDArray[np.bool_]) -> Numbers:
    """The passages with the most for them by words."""
    total = alone / max(1e-9, float(alone.max(initial=0))) + around / max(1e-9, float(around.max(initial=0)))
    numbers = np.flatnonzero(searched)
    if len(numbers) > CANDIDATES_COUNT:
        numbers = numbers[np.argpartition(-total[numbers], CANDIDATES_COUNT)[:CANDIDATES_COUNT]]
    return numbers.astype(np.int64)
