"""A question as verification sees it: its words, and what of them alone makes it another question. Pure.

The words themselves are in `english.toml`: a question in another language is compared by its vector, numbers, names and
words as they stand.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

_ENGLISH: Final[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "english.toml").read_text(encoding="utf-8"))


def _words(name: str) -> frozenset[str]:
    return frozenset(_ENGLISH[name].split())


def _named(name: str) -> dict[str, str]:
    """What each word stands for, of a table of names with their words."""
    return {word: name for name, words in _ENGLISH[name].items() for word in words.split()}


_WORD: Final = re.compile(r"[^\W_]*\d[^\W_]*(?:[.,:/]\d+)*%?|[^\W\d_]+(?:'[^\W\d_]+)?[+#]*|[^\w\s]")
_QUOTE: Final = "\N{RIGHT SINGLE QUOTATION MARK}"
_CONTRACTED: Final[dict[str, str]] = _ENGLISH["contracted"]
_PHRASES: Final = [(re.compile(rf"\b{pattern}"), by) for pattern, by in _ENGLISH["phrases"]]
_POINTS_OUT: Final = re.compile("|".join(rf"\b{pattern}" for pattern in _ENGLISH["points_out"]))
_MEANS: Final = {word: group.split()[0] for group in _ENGLISH["same"] for word in group.split()}
_NUMBERS: Final[dict[str, str]] = _ENGLISH["numbers"]
_FUNCTION: Final = _words("function")
_RELATIONS: Final = _words("relations")
_DEGREES: Final = _words("degrees")
_NEGATIONS: Final = _words("negations")
_MEASURES: Final = _words("measures")
_AUXILIARIES: Final = _words("auxiliaries")
_OPENERS: Final = _words("openers")
_PERSONS: Final = _named("persons")
_MODALS: Final = _named("moods")
_ASKS: Final = {"whom": "who", "which": "what"} | {
    word: word for word in ("how", "why", "when", "where", "who", "whose", "what")
}
# Endings that are cut off, what takes their place, and the least that has to be left.
_ENDINGS: Final = (
    ("ies", "y", 2),
    ("sses", "ss", 1),
    ("ches", "ch", 2),
    ("shes", "sh", 2),
    ("xes", "x", 2),
    ("ing", "", 3),
    ("edly", "", 3),
    ("ied", "y", 2),
    ("ed", "", 3),
    ("ss", "ss", 1),
    ("us", "us", 1),
    ("is", "is", 1),
    ("s", "", 2),
    ("ly", "", 4),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What two questions are compared by. `content` is in the order of the text; sets are of stems."""

    # As it was said, but for case, marks and contractions; then with ways of asking put into one form.
    said: tuple[str, ...]
    tokens: tuple[str, ...]
    content: tuple[str, ...]
    numbers: frozenset[str]
    names: frozenset[str]
    asks: str
    is_negated: bool
    modals: frozenset[str]
    persons: frozenset[str]
    degrees: frozenset[str]
    relations: tuple[str, ...]
    points_out: bool


@lru_cache(maxsize=4_096)
def question(text: str) -> Question:
    """The question in a text; the longer ones cost their length."""
    text = unicodedata.normalize("NFKC", text).replace(_QUOTE, "'")
    names = _names(text)
    flat = " ".join(_CONTRACTED.get(word, word) for word in text.lower().split()).replace("n't", " not")
    asked = flat
    for pattern, by in _PHRASES:
        asked = pattern.sub(by, asked)
    words = [word for word in _WORD.findall(asked) if word[0].isalnum()]
    plain = [word for word in _WORD.findall(flat) if word[0].isalnum()]
    # At the end it is the verb itself: what a thing does is not what it is.
    acts = [words[-1]] if words and words[-1] in ("do", "does") else []
    numbers = [_NUMBERS.get(word, word) for word in words if _has_digit(word) or word in _NUMBERS]
    content = [_stem(word) for word in words if word not in _FUNCTION and word not in _NUMBERS and not _has_digit(word)]
    return Question(
        said=tuple(plain),
        tokens=tuple(words),
        content=tuple(word for word in [*content, *acts] if word),
        numbers=frozenset(numbers),
        names=names,
        asks=_asks(words),
        is_negated=sum(word in _NEGATIONS for word in plain) % 2 == 1,
        modals=frozenset(_MODALS[word] for word in words if word in _MODALS),
        persons=frozenset(_PERSONS[word] for word in words if word in _PERSONS),
        degrees=frozenset(word for word in words if word in _DEGREES),
        relations=tuple(sorted(word for word in words if word in _RELATIONS)),
        points_out=_POINTS_OUT.search(flat) is not None,
    )


def opposed(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether a word on one side is the opposite of one on the other; words without those that both sides have."""
    return any(frozenset((left, right)) in _OPPOSITES for left in one for right in other)


def _asks(words: Sequence[str]) -> str:
    """The kind of the first question: its question word, with what it measures, or `whether`; empty for none."""
    for at, word in enumerate(words):
        if word == "how" and at + 1 < len(words) and words[at + 1] in _MEASURES:
            return f"how {words[at + 1]}"
        if word in _ASKS:
            return _ASKS[word]
        if word in _AUXILIARIES and (at == 0 or words[at - 1] in _OPENERS):
            return "whether"
    return ""


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _names(text: str) -> frozenset[str]:
    """Words with a capital that does not begin a sentence, or with one inside; stems of them."""
    found = []
    begins = True
    words = _WORD.findall(text)
    # In a text all of capitals they say nothing.
    loud = sum(word.isupper() for word in words) > len(words) / 2
    for word in words:
        if not word[0].isalnum():
            begins = begins or word in ".?!:"
            continue
        inner = word[1:] != word[1:].lower()
        if (
            not loud
            and word[0].isalpha()
            and (inner or (word[0].isupper() and not begins))
            and word.lower() not in _FUNCTION
        ):
            found.append(_stem(word.lower()))
        begins = False
    return frozenset(found)


def _stem(word: str) -> str:
    """The word without its commonest endings, and the first word of its group if it has one."""
    word = _MEANS.get(word.removesuffix("'s"), word.removesuffix("'s"))
    for ending, by, length in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= length:
            word = word[: len(word) - len(ending)] + by
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeosl":
        word = word[:-1]
    word = word.removesuffix("e") if len(word) > 4 else word
    return _GROUP_STEMS.get(word, word)


_GROUP_STEMS: dict[str, str] = {}
_GROUP_STEMS |= {_stem(word): _stem(first) for word, first in _MEANS.items()}
_OPPOSITES: Final = frozenset(frozenset(map(_stem, pair.split("/"))) for pair in _words("opposites"))
