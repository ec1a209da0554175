"""Words of passages as postings, and BM25 over whichever of the passages are searched. Pure.

BM25 rests on the collection: how many passages have a word, and how long they are. An index that stores finished scores
has to be built anew for each document. Here only counts are stored, in segments that are merged as they grow, and the
rest is computed for the words of a query: so a score is that of exactly the passages that a search is about, those that
a filter leaves, and that of a passage with its two neighbours needs no second index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from context_store.retrieval.english import STOP_WORDS, stem
from services import words as texts

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Terms: TypeAlias = NDArray[np.int64]

# Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
_K1: Final = 1.2
_B: Final = 0.75
# Segments of about one size that are merged into one.
_MERGED_COUNT: Final = 8
_TF_MAX: Final = np.iinfo(np.uint16).max


def terms(text: str) -> Terms:
    """The words of a passage as numbers, in their order. The numbers hold within this process alone."""
    return _numbers(texts.words(text.lower()))


def query_terms(text: str) -> Terms:
    """The different words of a query, without those that tell nothing, unless it has no others."""
    found = texts.words(text.lower())
    return np.unique(_numbers([word for word in found if word not in STOP_WORDS] or found))


def _numbers(found: Sequence[str]) -> Terms:
    # As Python hashes strings: 64 bits, so that two words share one once in billions, and no table of words to keep.
    return np.fromiter(map(hash, map(stem, found)), np.int64, len(found))


@dataclass(frozen=True, slots=True)
class Segment:
    """Postings of some passages: `passages[offsets[i]:offsets[i + 1]]` have term `terms[i]`, `counts` times each."""

    terms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    passages: NDArray[np.int32]
    counts: NDArray[np.uint16]

    @classmethod
    def of(cls, words: Sequence[NDArray[np.int64]], first: int) -> Segment:
        """The postings of consecutive passages from number `first` on, each with its words."""
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        all_words = np.concatenate([*words, np.empty(0, np.int64)])
        passages = np.repeat(np.arange(first, first + len(words), dtype=np.int64), lengths)
        order = np.lexsort((passages, all_words))
        all_words, passages = all_words[order], passages[order]
        is_new = np.ones(len(order), dtype=np.bool_)
        is_new[1:] = (all_words[1:] != all_words[:-1]) | (passages[1:] != passages[:-1])
        starts = np.flatnonzero(is_new)
        counts = np.minimum(np.diff(starts, append=len(order)), _TF_MAX).astype(np.uint16)
        return cls._grouped(all_words[starts], passages[starts].astype(np.int32), counts)

    @classmethod
    def merged(cls, segments: Sequence[Segment]) -> Segment:
        """One segment of several."""
        words = np.concatenate([np.repeat(one.terms, np.diff(one.offsets)) for one in segments])
        passages = np.concatenate([one.passages for one in segments])
        order = np.lexsort((passages, words))
        counts = np.concatenate([one.counts for one in segments])
        return cls._grouped(words[order], passages[order], counts[order])

    @classmethod
    def _grouped(cls, words: NDArray[np.int64], passages: NDArray[np.int32], counts: NDArray[np.uint16]) -> Segment:
        found, starts = np.unique(words, return_index=True)
        return cls(found, np.append(starts, len(words)).astype(np.int64), passages, counts)

    def __len__(self) -> int:
        return len(self.passages)

    @property
    def memory_bytes(self) -> int:
        return self.terms.nbytes + self.offsets.nbytes + self.passages.nbytes + self.counts.nbytes

    def add_to(self, frequency: Floats, term: int) -> None:
        """Adds how often each passage has the term."""
        place = int(np.searchsorted(self.terms, term))
        if place < len(self.terms) and self.terms[place] == term:
            span = slice(self.offsets[place], self.offsets[place + 1])
            frequency[self.passages[span]] += self.counts[span]


def merged_tiers(segments: Sequence[Segment]) -> list[Segment]:
    """The segments, neighbours of about one size merged where there are many: so few that a query can visit each.

    Each posting is merged once for each power of `_MERGED_COUNT` that its segment reaches.
    """
    tiers = list(segments)
    while len(tiers) >= _MERGED_COUNT:
        last = tiers[-_MERGED_COUNT:]
        if max(map(len, last)) > _MERGED_COUNT * max(1, min(map(len, last))) * 2:
            break
        tiers[-_MERGED_COUNT:] = [Segment.merged(last)]
    return tiers


@dataclass(frozen=True, slots=True)
class Scores:
    """BM25 of every passage: alone, and as one text with its neighbours in its document. 0 where it is not searched."""

    alone: Floats
    around: Floats


def bm25(
    segments: Sequence[Segment], query: NDArray[np.int64], lengths: Floats, joined: Mask, searched: Mask
) -> Scores:
    """Scores for the different words of a query. `lengths` are in words; `joined[i]` says that i + 1 follows i.

    Lucene's variant: the inverse frequency of a word is never negative.
    """
    alone, around = np.zeros(len(lengths), np.float32), np.zeros(len(lengths), np.float32)
    count = int(np.count_nonzero(searched))
    if not count:
        return Scores(alone, around)
    norm_alone, norm_around = _norms(lengths, searched), _norms(with_neighbours(lengths, joined), searched)
    for term in query:
        frequency = np.zeros(len(lengths), np.float32)
        for segment in segments:
            segment.add_to(frequency, int(term))
        _add(alone, frequency, norm_alone, searched, count)
        _add(around, with_neighbours(frequency, joined), norm_around, searched, count)
    alone[~searched] = 0
    around[~searched] = 0
    return Scores(alone, around)


def _norms(lengths: Floats, searched: Mask) -> Floats:
    mean = max(1.0, float(lengths[searched].mean()))
    norms: Floats = np.float32(_K1) * (np.float32(1 - _B) + np.float32(_B / mean) * lengths)
    return norms


def _add(total: Floats, frequency: Floats, norms: Floats, searched: Mask, count: int) -> None:
    having = int(np.count_nonzero(frequency[searched]))
    if having:
        weight = math.log(1 + (count - having + 0.5) / (having + 0.5))
        total += np.float32(weight) * frequency / (frequency + norms)


def with_neighbours(values: Floats, joined: Mask) -> Floats:
    """Each passage's value with those of the passages before and behind it in its document."""
    total = values.copy()
    total[:-1] += values[1:] * joined[:-1]
    total[1:] += values[:-1] * joined[:-1]
    return total
