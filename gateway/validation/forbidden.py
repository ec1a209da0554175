"""What the mesh's owner does not let anybody read: words, phrases and patterns of the settings. Pure."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gateway.validation.check import Match

NAME: Final = "forbidden"
PATTERN_LENGTH_MAX: Final = 200
_SPAN_MAX: Final = 256
_REPEATS: Final = frozenset(("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"))


def problem_of(pattern: str) -> str | None:
    """What is wrong with a pattern, None for nothing.

    Its spans have to be of bounded length, and it must not take time that grows faster than that: no repeat within a
    repeat, no reference to a group.
    """
    if len(pattern) > PATTERN_LENGTH_MAX:
        return f"is {len(pattern)} characters long, expected at most {PATTERN_LENGTH_MAX}"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is no regular expression: {error}"
    parsed = _parsed(pattern)
    least, most = parsed.getwidth()
    if not 1 <= least <= most <= _SPAN_MAX:
        return f"matches {least} to {most} characters, expected 1 to {_SPAN_MAX}: write {{0,20}} instead of * and +"
    return _nested(parsed, within=False)


class Forbidden:
    """Words and phrases without regard to case, whole words only; and patterns. Raises ValueError for one of those."""

    def __init__(self, words: Sequence[str], patterns: Sequence[str] = ()) -> None:
        self.name = NAME
        for pattern in patterns:
            if problem := problem_of(pattern):
                raise ValueError(f"{pattern!r} {problem}")
        found = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in sorted(set(words), key=len, reverse=True)]
        found += [f"(?:{pattern})" for pattern in patterns]
        self._whole = re.compile("|".join(found), re.IGNORECASE) if found else None
        # What stands behind a word is looked at, too; what a pattern looks at, nobody knows.
        self._span_max = _SPAN_MAX + 1 if patterns else max(map(len, words), default=0) + 1

    def matches(self, text: str, begin: int) -> Iterator[Match]:
        """As Check has it."""
        for match in self._whole.finditer(text, begin) if self._whole else ():
            yield Match(match.start(), match.end(), NAME, "pattern" if self._span_max > _SPAN_MAX else "word")

    def pending(self, text: str, begin: int) -> int:
        """As Check has it: as far back as the longest goes."""
        return max(begin, len(text) - self._span_max)


def _parsed(pattern: str) -> Any:
    # The one parser of Python's patterns; it has no public name since 3.11.
    parser: Any = importlib.import_module("re._parser")
    return parser.parse(pattern)


def _nested(parsed: Any, *, within: bool) -> str | None:
    for operation, argument in parsed:
        name = str(operation)
        if name in ("GROUPREF", "GROUPREF_EXISTS", "ASSERT", "ASSERT_NOT", "AT"):
            return "refers to a group, looks around or is bound to a place, expected none of these"
        repeats = name in _REPEATS
        if repeats and within:
            return "has a repeat within a repeat, expected none"
        for part in _parts(argument):
            if problem := _nested(part, within=within or repeats):
                return problem
    return None


def _parts(argument: Any) -> Iterator[Any]:
    """The patterns within an operation's argument, however deep its tuples are."""
    if type(argument).__name__ == "SubPattern":
        yield argument
    elif isinstance(argument, tuple | list):
        for each in argument:
            yield from _parts(each)
