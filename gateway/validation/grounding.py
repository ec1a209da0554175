"""How much of a reply stands in what it was made from: the words that inform, sentence by sentence. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.caches.words import question

NAME: Final = "grounding"
_SENTENCE: Final = re.compile(r"[^.!?\n]+[.!?]?")
# A sentence with fewer informative words says nothing that could be looked up.
_WORDS_COUNT_MIN: Final = 3
# A number or a name that stands nowhere is worse than any other word.
_WEIGHT_SHARP: Final = 2.5


@dataclass(frozen=True, slots=True)
class Grounding:
    """`score` is the mean share of the sentences' informative words that were there, 1 where none informs."""

    score: float
    sentences: int
    ungrounded: tuple[str, ...]


def grounding(reply: str, passages: Iterable[str], *, share_min: float = 0.5) -> Grounding:
    """Of a reply, in the passages; sentences below `share_min` are told."""
    there: set[str] = set()
    for passage in passages:
        for sentence in _SENTENCE.findall(passage):
            there.update(_informative(sentence))
    shares = []
    ungrounded = []
    for sentence in _SENTENCE.findall(reply):
        words = _informative(sentence)
        if len(words) < _WORDS_COUNT_MIN:
            continue
        share = sum(weight for word, weight in words.items() if word in there) / sum(words.values())
        shares.append(share)
        if share < share_min:
            ungrounded.append(sentence.strip())
    return Grounding(sum(shares) / len(shares) if shares else 1.0, len(shares), tuple(ungrounded))


def _informative(sentence: str) -> dict[str, float]:
    """The sentence's content with its weights."""
    found = question(sentence)
    words = dict.fromkeys(found.content, 1.0)
    return words | dict.fromkeys([*found.names, *found.numbers], _WEIGHT_SHARP)
