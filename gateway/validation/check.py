"""A thing that a text is looked through for, in a form that allows to look through it while it comes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Match:
    """A span of a text, and what it is."""

    start: int
    end: int
    check: str
    kind: str


class Check(Protocol):
    """Finds spans of bounded length, each by what it is made of and at most two characters behind it."""

    @property
    def name(self) -> str:
        """As settings and findings have it."""

    def matches(self, text: str, begin: int) -> Iterator[Match]:
        """All spans that begin at `begin` or later, in order, as if the text went on with nothing."""

    def pending(self, text: str, begin: int) -> int:
        """The first place from `begin` on at which a span may begin that the text's end cuts off; its length if none.

        Too early a place only holds text back; too late a one would let a span through.
        """


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of span: what it looks like, what any beginning of it looks like, and where it ends, if it is one.

    `ends` is asked for the end of the span within a match of `whole`; None says that it only looks like one.
    """

    kind: str
    whole: re.Pattern[str]
    begun: re.Pattern[str]
    ends: Callable[[str], int | None] = len


@dataclass(frozen=True, slots=True)
class PatternCheck:
    """A check by patterns; where two match, the one that begins first, then the longer one."""

    name: str
    patterns: tuple[Pattern, ...]

    def matches(self, text: str, begin: int) -> Iterator[Match]:
        found = [match for pattern in self.patterns for match in _spans(self.name, pattern, text, begin)]
        yield from sorted(found, key=lambda match: (match.start, -match.end))

    def pending(self, text: str, begin: int) -> int:
        found = [match.start() for each in self.patterns if (match := each.begun.search(text, begin))]
        return min(found, default=len(text))


def _spans(name: str, pattern: Pattern, text: str, begin: int) -> Iterator[Match]:
    at = begin
    while match := pattern.whole.search(text, at):
        length = pattern.ends(match[0]) if match[0] else None
        if length is None:
            at = match.start() + 1
            continue
        yield Match(match.start(), match.start() + length, name, pattern.kind)
        at = match.start() + max(1, length)
