"""Whether what a reply claims stands in what it was made from: by words, numbers, names and negations. Pure.

Each claim is held against passages of two sentences, which come in once and in order. So what is kept is the claims and
the best few passages of each, whatever the length of what is read.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from services.claims.words import WORDS_COUNT_MIN, Span, informative, is_negated, numbers, sentences, share, stems

# Of a claim's words so many have to stand together that it is supported, or that a passage is of the same thing.
SUPPORTED_MIN: Final = 0.5
ABOUT_MIN: Final = 0.6
# The same with the best passages together, for a claim that sums several up.
TOGETHER_MIN: Final = 0.65
PASSAGES_COUNT_MAX: Final = 5
PASSAGE_CHARS_MAX: Final = 1_000


class Verdict(IntEnum):
    """What becomes of a claim. The numbers are the contract's and are stored."""

    SUPPORTED = 1
    CONTRADICTED = 2
    UNSUPPORTED = 3


@dataclass(frozen=True, slots=True, order=True)
class Passage:
    """Two sentences that a claim was held against, or one, and how much of the claim's words they have."""

    score: float
    # Earlier ones first, of equal ones.
    order: int
    text: str = field(compare=False)
    # The second sentence alone.
    last: str = field(compare=False)
    sequence: int = field(compare=False)
    words: frozenset[str] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim, by its place in the reply in characters, with its verdict and the passages that it rests on."""

    span: Span
    verdict: Verdict
    score: float
    passages: tuple[Passage, ...] = ()


@dataclass(slots=True)
class _Claim:
    span: Span
    text: str
    words: Mapping[str, float]
    passages: list[Passage] = field(default_factory=list)


class Claims:
    """The claims of a reply: `read` what it was made from, then ask for `judged`."""

    def __init__(self, reply: str, count_max: int) -> None:
        found = [_Claim(span, reply[slice(*span)], informative(reply[slice(*span)])) for span in sentences(reply)]
        claims = [each for each in found if len(each.words) >= WORDS_COUNT_MIN and not each.text.endswith("?")]
        self._claims = claims[:count_max]
        # Claims beyond the bound.
        self.more = len(claims) - len(self._claims)
        self._by_word: dict[str, list[int]] = defaultdict(list)
        for index, claim in enumerate(self._claims):
            for word in claim.words:
                self._by_word[word].append(index)
        self._order = 0

    def __len__(self) -> int:
        return len(self._claims)

    def texts(self) -> Sequence[str]:
        """What is claimed."""
        return [claim.text for claim in self._claims]

    def read(self, text: str, sequence: int) -> None:
        """Holds the claims against one more text; passages do not go over its ends."""
        before, words_before = "", frozenset[str]()
        for start, end in sentences(text):
            sentence = text[start : min(end, start + PASSAGE_CHARS_MAX)]
            words = stems(sentence) & self._by_word.keys()
            if words:
                self._compare(before, words_before, sentence, words, sequence)
            before, words_before = sentence, words

    def judged(self) -> list[Judged]:
        """The verdicts by what was read until now, in the order of the reply."""
        return [self._judge(claim) for claim in self._claims]

    def _compare(
        self, before: str, words_before: frozenset[str], sentence: str, words: frozenset[str], sequence: int
    ) -> None:
        both = words | words_before
        for index in {index for word in words for index in self._by_word[word]}:
            claim = self._claims[index]
            alone, together = share(claim.words, words), share(claim.words, both)
            self._order -= 1
            text, there = (sentence, words) if alone >= together else (f"{before} {sentence}", both)
            passage = Passage(max(alone, together), self._order, text, sentence, sequence, there)
            if len(claim.passages) < PASSAGES_COUNT_MAX:
                heapq.heappush(claim.passages, passage)
            elif passage > claim.passages[0]:
                heapq.heapreplace(claim.passages, passage)

    def _judge(self, claim: _Claim) -> Judged:
        passages = tuple(sorted(claim.passages, reverse=True))
        if not passages:
            return Judged(claim.span, Verdict.UNSUPPORTED, 0.0)
        there = frozenset[str]().union(*(each.words for each in passages))
        is_there = any(_supports(claim, each) for each in passages)
        if not is_there and not any(_negates(claim, each) for each in passages):
            is_there = share(claim.words, there) >= TOGETHER_MIN and numbers(claim.words) <= there
        if is_there:
            verdict = Verdict.SUPPORTED
        else:
            is_contradicted = any(_contradicts(claim, each) for each in passages)
            verdict = Verdict.CONTRADICTED if is_contradicted else Verdict.UNSUPPORTED
        return Judged(claim.span, verdict, round(passages[0].score, 3), passages)


def _supports(claim: _Claim, passage: Passage) -> bool:
    """Whether the passage by itself says the same."""
    is_there = passage.score >= SUPPORTED_MIN and numbers(claim.words) <= passage.words
    return is_there and not _negates(claim, passage)


def _contradicts(claim: _Claim, passage: Passage) -> bool:
    """Whether the passage is of the same thing and says another number of it, or that it is not so."""
    own = numbers(claim.words)
    others = {word: weight for word, weight in claim.words.items() if word not in own}
    said = stems(passage.last)
    if own and others and share(others, said) >= ABOUT_MIN and not own <= passage.words and numbers(said) - own:
        return True
    return _negates(claim, passage)


def _negates(claim: _Claim, passage: Passage) -> bool:
    """Whether the passage's own sentence is of the same thing, and one of the two says that it is not so."""
    said = stems(passage.last)
    is_same = share(claim.words, said) >= ABOUT_MIN and numbers(claim.words) <= said
    return is_same and is_negated(claim.text) != is_negated(passage.last)
