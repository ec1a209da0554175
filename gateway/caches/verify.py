"""Whether two questions ask the same, beyond their vectors being near. Pure.

First what alone makes them two: other numbers, a name for a name, a word for its opposite, a negation, the same words
the other way round, or something that is pointed at and not told. Then a logistic regression over `likeness.NAMES`,
whose weights are in `weights.json`: `strict` from open questions, `intent` from those of one help desk
(made by `benchmarks/semantic_cache.py --fit`). Strictly, both have to say yes: they learned from different people. The
same words, but for case, marks and contractions, need neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp
from pathlib import Path
from typing import Final

from gateway.caches.likeness import NAMES, features
from gateway.caches.words import question

# What alone makes two questions of them: the feature, and how a report names it.
APART: Final = {
    "numbers": "numbers",
    "name_swap": "names",
    "opposed": "opposites",
    "negation": "negation",
    "swapped": "order",
    "points_out": "points_out",
}
# What makes two of open questions, where it may be another way of saying the same on one narrow field.
APART_STRICTLY: Final = APART | {
    "asks_differ": "kind_of_question",
    "asks_missing": "kind_of_question",
    "person_differs": "person",
    "modal_differs": "mood",
    "degree_differs": "degree",
    "relations": "relations",
    "names_unmatched": "names",
    "repeated": "words",
}
UNLIKE: Final = "unlike"
# How sure the second opinion has to be. On what `strict` learned from, left out in turn, it takes the precision of the
# hits over 0.9 from .964 to .977.
_SECOND_MIN: Final = 0.98
_WEIGHTS: Final = Path(__file__).parent / "weights.json"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How sure it is that both ask the same, from 0 to 1; and what tells them apart, if anything does by itself."""

    score: float
    apart: str = ""


def verify(one: str, other: str, cosine: float, *, strictly: bool = True) -> Verdict:
    """The verdict on two questions whose vectors have this cosine; the same whichever comes first."""
    names = APART_STRICTLY if strictly else APART
    said, also = question(one), question(other)
    found = features(said, also, cosine)
    for name, value in zip(NAMES, found, strict=True):
        if value and name in names:
            return Verdict(0.0, names[name])
    if said.said == also.said:
        return Verdict(1.0)
    second = _sure("intent", found)
    if not strictly:
        return Verdict(second)
    return Verdict(_sure("strict", found) if second >= _SECOND_MIN else 0.0)


def _sure(level: str, found: Sequence[float]) -> float:
    logit = sum(weight * value for weight, value in zip(weights(level), found, strict=True))
    return 1 / (1 + exp(-max(-40.0, min(40.0, logit))))


@lru_cache(maxsize=2)
def weights(level: str) -> tuple[float, ...]:
    """One for each of NAMES."""
    kept = json.loads(_WEIGHTS.read_text(encoding="utf-8"))[level]
    return tuple(float(kept[name]) for name in NAMES)
