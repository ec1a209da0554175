"""Sentences, and the words of them that inform: names and numbers above all. Pure.

Nothing here knows a grammar: words are compared by what is left of them without case, marks and the commonest English
endings; words of other languages as they stand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Final

Span = tuple[int, int]

# A name or a number that stands nowhere is worse than any other word.
WEIGHT_SHARP: Final = 2.5
# A sentence with fewer informative words says nothing that could be looked up.
WORDS_COUNT_MIN: Final = 3
# A mark ends a sentence where a blank follows it; those of scripts without blanks always do.
_SENTENCE: Final = re.compile(
    "[^\\s.!?\u3002\uff01\uff1f](?:[^.!?\u3002\uff01\uff1f\n]++|[.!?]++(?!\\s|$))*(?:[.!?]+|[\u3002\uff01\uff1f])?"
)
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD: Final = re.compile(
    rf"[{_UNSPACED}]+|\d+(?:[.,:/]\d+)*|[^\W\d_{_UNSPACED}]+(?:['\u2019][^\W\d_{_UNSPACED}]+)?|[^\W_{_UNSPACED}]+"
)
_IS_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+")
_NUMBER_WORDS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_NEGATION_WORDS: Final = "not no never none nobody nothing neither nor without cannot"
_FUNCTION_WORDS: Final = (
    "a about above after again all also an and any are as at be because been before being below between both but by "
    "can could did do does doing down during each few for from further had has have having he her here hers him his "
    "how i if in into is it its itself just may me might more most must my of off on once only or other ought our ours "
    "out over own per same shall she should so some such than that the their theirs them then there these they this "
    "those through thus to too under until up upon us very was we were what when where which while who whom whose why "
    "will with would yet you your yours yes please sure however therefore"
)
_NUMBERS: Final = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}
NEGATIONS: Final = frozenset(_NEGATION_WORDS.split())
_FUNCTION: Final = NEGATIONS.union(_FUNCTION_WORDS.split())
# Endings that are cut off, what takes their place, and the least that has to be left.
_ENDINGS: Final = (("ies", "y", 2), ("sses", "ss", 1), ("ing", "", 3), ("ed", "", 3), ("es", "", 3), ("ly", "", 4))


def sentences(text: str) -> Iterator[Span]:
    """Where the sentences of a text are, by characters: in order, disjoint, without blanks around them."""
    for match in _SENTENCE.finditer(text):
        start, end = match.span()
        yield start, start + len(text[start:end].rstrip())


def stems(text: str) -> frozenset[str]:
    """All words of a text, function words left out. Fast: each different word is looked at once."""
    return frozenset(stem for word in set(_WORD.findall(text)) for stem in _stems(word))


def informative(sentence: str) -> dict[str, float]:
    """The words of a sentence that inform, each with its weight: WEIGHT_SHARP for names and numbers, else 1."""
    found: dict[str, float] = {}
    for place, match in enumerate(_WORD.finditer(sentence)):
        word = match[0]
        for stem in _stems(word):
            is_sharp = stem[0].isdigit() or (word[0].isupper() and place > 0) or _has_inner(word)
            found[stem] = max(found.get(stem, 0.0), WEIGHT_SHARP if is_sharp else 1.0)
    return found


def numbers(words: Iterable[str]) -> frozenset[str]:
    """Those of these stems that are numbers."""
    return frozenset(word for word in words if word[0].isdigit())


def is_negated(sentence: str) -> bool:
    """Whether the sentence says that something is not so."""
    words: list[str] = [match[0].lower() for match in _WORD.finditer(sentence)]
    count = sum(word in NEGATIONS or word.endswith(("n't", "n\u2019t")) for word in words)
    return count % 2 == 1


def share(words: Mapping[str, float], there: frozenset[str] | set[str]) -> float:
    """How much of the words' weight is there, from 0 to 1; 1 of nothing."""
    whole = sum(words.values())
    return sum(weight for word, weight in words.items() if word in there) / whole if whole else 1.0


def _has_inner(word: str) -> bool:
    """Whether it has a capital behind its first letter, and is not shouted."""
    return word[1:] != word[1:].lower() and not word.isupper()


@lru_cache(maxsize=65_536)
def _stems(word: str) -> tuple[str, ...]:
    """What of the word is compared: nothing of a function word; of a run of Han and kana, its pairs of characters."""
    plain = unicodedata.normalize("NFKC", word).casefold()
    if _IS_UNSPACED.match(plain):
        return tuple(map("".join, pairwise(plain))) or (plain,)
    stem = _stem(plain) if plain else ""
    return (stem,) if stem else ()


def _stem(plain: str) -> str:
    if _GROUPED.fullmatch(plain):
        return plain.replace(",", "")
    plain = _NUMBERS.get(plain, plain)
    if plain[0].isdigit() or plain in _FUNCTION or plain.endswith(("n't", "n\u2019t")):
        return "" if not plain[0].isdigit() else plain
    plain = plain.replace("\u2019", "'").removesuffix("'s")
    for ending, by, length in _ENDINGS:
        if plain.endswith(ending) and len(plain) - len(ending) >= length:
            plain = plain[: len(plain) - len(ending)] + by
            break
    else:
        if plain.endswith("s") and not plain.endswith(("ss", "us", "is")) and len(plain) > 3:
            plain = plain[:-1]
    if len(plain) > 4 and plain[-1] == plain[-2] and plain[-1] not in "aeosl":
        plain = plain[:-1]
    return plain.removesuffix("e") if len(plain) > 4 else plain
