"""The choice of sentences: weighted coverage of informative words under a budget. Pure and deterministic.

A set of sentences is worth, for each word, its weight times H(n) = 1 + 1/2 + ... + 1/n, where n counts the chosen
sentences that have the word: the first mention counts most, and no mention counts for nothing. That is monotone and
submodular, so adding the sentence with the most gain per cost, or taking the best single one where that is worth
more, keeps at least (1 - 1/e) / 2 of what any choice could (Khuller, Moss and Naor, "The budgeted maximum coverage
problem", 1999; for summaries Filatova and Hatzivassiloglou, 2004, and Lin and Bilmes, 2010). Questions are passed
over at half their gain, beyond that bound. Gains only ever fall, so a heap of old gains finds the best one after few
new sums (Minoux, "Accelerated greedy algorithms", 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compressor.words import WordTable

# A question holds the words of its answer, and seldom the answer.
QUESTION_FACTOR: Final = 0.5
# Ordinary text of 4 MiB takes 250,000 to 650,000; hundreds of thousands of nearly equal lines would take n squared.
EVALUATIONS_MAX: Final = 1_000_000
_QUESTION_MARKS: Final = ("?", "\uff1f", "\u061f")


class Coverage:
    """What choices among some sentences are worth. Made once, asked with as many budgets as are needed."""

    def __init__(self, sentences: Sequence[str], costs: Sequence[float]) -> None:
        if len(sentences) != len(costs):
            raise ValueError(f"costs: expected one for each of {len(sentences)} sentences, got {len(costs)}")
        if any(cost <= 0 for cost in costs):
            raise ValueError("costs: expected all of them above 0")
        self._table = WordTable(sentences)
        self._costs = np.asarray(costs, dtype=np.float64)
        questions = [any(mark in sentence for mark in _QUESTION_MARKS) for sentence in sentences]
        self._factors = np.where(questions, QUESTION_FACTOR, 1.0)

    def choose(self, budget: float) -> list[int]:
        """Indices of sentences, ascending, whose costs add up to at most `budget`.

        Whatever sentence with a word in it was left out would not have fit any more, unless one alone is worth more
        than all that fit together. Equal gains go to the earlier sentence.
        """
        chosen = self._greedy(budget)
        single = self._best_single(budget)
        if single is not None and self.worth([single]) > self.worth(chosen):
            return [single]
        return sorted(chosen)

    def worth(self, chosen: Sequence[int]) -> float:
        """The value of a choice, in the units of the words' weights."""
        gains = _Gains(self._table)
        total = 0.0
        for index in chosen:
            total += gains.of(index)
            gains.take(index)
        return total

    def _greedy(self, budget: float) -> list[int]:
        gains = _Gains(self._table)
        rates = gains.of_each() * self._factors / self._costs
        heap = [(-rate, index) for index, rate in enumerate(rates.tolist()) if rate > 0]
        heapq.heapify(heap)
        chosen: list[int] = []
        evaluations = 0
        while heap:
            _, index = heap[0]
            if self._costs[index] > budget:
                heapq.heappop(heap)
                continue
            rate = gains.of(index) * self._factors[index] / self._costs[index]
            evaluations += 1
            # The next best is one of the root's children. Beyond the bound, old gains have to do.
            if evaluations <= EVALUATIONS_MAX and (-rate, index) > min(heap[1:3], default=(0.0, index)):
                heapq.heapreplace(heap, (-rate, index))
                continue
            heapq.heappop(heap)
            chosen.append(index)
            budget -= float(self._costs[index])
            gains.take(index)
        return chosen

    def _best_single(self, budget: float) -> int | None:
        values = np.where(self._costs <= budget, _Gains(self._table).of_each() * self._factors, 0.0)
        return int(values.argmax()) if values.any() else None


class _Gains:
    """What each sentence would add to those taken so far: the sum over its words of weight / (1 + mentions)."""

    def __init__(self, table: WordTable) -> None:
        self._table = table
        self._shares: NDArray[np.float64] = table.weights.copy()
        self._mentions = np.zeros(len(table.weights), dtype=np.int32)

    def of(self, sentence: int) -> float:
        return float(self._shares[self._table[sentence]].sum())

    def of_each(self) -> NDArray[np.float64]:
        sums = np.concatenate(([0.0], np.cumsum(self._shares[self._table.ids])))
        return np.diff(sums[self._table.offsets])

    def take(self, sentence: int) -> None:
        words = self._table[sentence]
        self._mentions[words] += 1
        self._shares[words] = self._table.weights[words] / (1 + self._mentions[words])
