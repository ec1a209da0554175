"""How alike two questions are, as numbers that weights are put on; and what alone makes them two. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from math import log
from typing import Final

from gateway.caches.words import Question, opposed

NAMES: Final = tuple(
    """bias cosine cosine_80 cosine_90 cosine_95 jaccard cover_least cover_most unmatched replaced added
    bigrams sequence reordered asks_differ asks_missing names_unmatched person_differs modal_differs
    degree_differs length length_ratio same_content same_tokens spelling numbers negation opposed name_swap
    pronoun3 relations points_out unmatched_tokens swapped repeated""".split()  # noqa: SIM905 - one place for all names
)


def features(one: Question, other: Question, cosine: float) -> list[float]:
    """In the order of NAMES; the same whichever question comes first."""
    a, b = set(one.content), set(other.content)
    left, right, spelling = _unmatched(a - b, b - a)
    common = len(a | b) - len(a - b) - len(b - a) + spelling
    total = max(1, len(a) + len(b) - common)
    cover = sorted((common / max(1, len(a)), common / max(1, len(b))))
    names = len(one.names & left) + len(other.names & right)
    return [
        1.0,
        cosine,
        max(0.0, cosine - 0.8),
        max(0.0, cosine - 0.9),
        max(0.0, cosine - 0.95),
        common / total,
        cover[0],
        cover[1],
        min(6, len(left) + len(right)) / 6,
        float(bool(left) and bool(right)),
        float(bool(left) != bool(right)),
        _overlap(_bigrams(one.content), _bigrams(other.content)),
        SequenceMatcher(None, one.tokens, other.tokens, autojunk=False).ratio(),
        float(_reordered(one.content, other.content)),
        float(bool(one.asks) and bool(other.asks) and one.asks != other.asks),
        float(bool(one.asks) != bool(other.asks)),
        min(3, names) / 3,
        float(one.persons != other.persons),
        float(one.modals != other.modals),
        float(one.degrees != other.degrees),
        log(1 + min(len(a), len(b))) / 3,
        abs(log((1 + len(one.tokens)) / (1 + len(other.tokens)))),
        float(not left and not right),
        float(sorted(one.tokens) == sorted(other.tokens)),
        float(spelling > 0),
        float(one.numbers != other.numbers),
        float(one.is_negated != other.is_negated),
        float(opposed(frozenset(left), frozenset(right))),
        float(bool(one.names & left) and bool(other.names & right)),
        float(one.persons - {"i", "you"} != other.persons - {"i", "you"}),
        float(one.relations != other.relations),
        float(one.points_out or other.points_out),
        min(4, len(set(one.tokens) ^ set(other.tokens))) / 4,
        float(not left and not right and _reordered(one.content, other.content)),
        float(not left and not right and len(one.content) != len(other.content)),
    ]


def _unmatched(left: set[str], right: set[str]) -> tuple[set[str], set[str], int]:
    """Without the pairs of words that differ in spelling alone, and how many those are."""
    left, right = set(left), set(right)
    pairs = 0
    for word in sorted(left):
        for near in sorted(right):
            if _is_misspelt(word, near):
                left.discard(word)
                right.discard(near)
                pairs += 1
                break
    return left, right, pairs


def _is_misspelt(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) < 4 or len(longer) - len(shorter) > 3:
        return False
    if longer.startswith(shorter) and len(shorter) >= 5:
        return True
    return one[0] == other[0] and SequenceMatcher(None, shorter, longer, autojunk=False).ratio() >= 0.84


def _bigrams(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(pairwise(words))


def _overlap(one: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    return len(one & other) / max(1, len(one | other))


def _reordered(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the words that both have come in another order."""
    shared = set(one) & set(other)
    return [w for w in dict.fromkeys(one) if w in shared] != [w for w in dict.fromkeys(other) if w in shared]
