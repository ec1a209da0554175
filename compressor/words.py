"""Which words tell something, and how much: rare ones, and names and numbers above all. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.words import words

# Chosen on LoCoMo: with 2.5, less evidence is kept at a tenth to a third of the tokens; from 6 on it is no clear gain.
NAME_FACTOR: Final = 4.0


class WordTable:
    """The words of some sentences as numbers.

    `ids[offsets[i]:offsets[i + 1]]` are the different words of sentence `i` (int32), `weights[id]` says how much a word
    tells (float64, above 0): the square of its inverse document frequency, log(1 + sentences / those with the word),
    times NAME_FACTOR for names and numbers. A name is what stands capitalised inside sentences more often than not.
    Case is folded, runs of Han and kana count as pairs of characters.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        vocabulary = _Vocabulary()
        rows = [vocabulary.row(sentence) for sentence in sentences]
        self.offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        self.ids: NDArray[np.int32] = np.fromiter((word for row in rows for word in row), np.int32, self.offsets[-1])
        frequency = np.bincount(self.ids, minlength=len(vocabulary))
        self.weights: NDArray[np.float64] = np.log1p(len(rows) / np.maximum(frequency, 1)) ** 2
        self.weights[vocabulary.names()] *= NAME_FACTOR

    def __getitem__(self, sentence: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[sentence] : self.offsets[sentence + 1]]


class _Vocabulary:
    """Word ids in order of appearance, and how often each word stood capitalised where nothing asks for it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._inside: list[int] = []
        self._capitalised: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def row(self, sentence: str) -> list[int]:
        """The ids of a sentence's different words, in order of appearance."""
        row: dict[int, None] = {}
        for position, word in enumerate(words(sentence)):
            identity = self._id(word.lower())
            row[identity] = None
            if position:
                self._inside[identity] += 1
                self._capitalised[identity] += word[0].isupper()
        return list(row)

    def names(self) -> list[int]:
        """The ids of names and numbers. A single letter is neither a name (I) nor hides one (A)."""
        return [identity for word, identity in self._ids.items() if self._is_name(word, identity)]

    def _id(self, word: str) -> int:
        identity = self._ids.setdefault(word, len(self._ids))
        if identity == len(self._inside):
            self._inside.append(0)
            self._capitalised.append(0)
        return identity

    def _is_name(self, word: str, identity: int) -> bool:
        if any(map(str.isdigit, word)):
            return True
        return len(word) > 1 and 2 * self._capitalised[identity] > self._inside[identity]
