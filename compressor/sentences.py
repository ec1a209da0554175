"""Sentences of a text, each with its exact place in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import nupunkt

_LINE: Final = re.compile(r"[^\r\n]+")
# Scripts that write no space after a sentence's end are beyond nupunkt, which was trained on English.
_UNSPACED_SENTENCE: Final = re.compile("[^\u3002\uff01\uff1f]*[\u3002\uff01\uff1f]+|[^\u3002\uff01\uff1f]+")
_BLANK: Final = re.compile(r"\s")

Span = tuple[int, int]


class SentenceSplitter:
    """Splits at line ends, then into sentences with nupunkt, then cuts what is longer than `chars_max` between words.

    Spans are (start, end) in characters of the text, in order, disjoint, without blanks around them; what lies between
    them is blank.
    """

    def __init__(self, chars_max: int) -> None:
        if chars_max < 1:
            raise ValueError(f"chars_max: expected at least 1, got {chars_max}")
        self._chars_max = chars_max
        self._punkt: Any = nupunkt.load("default")

    def __call__(self, text: str) -> Iterator[Span]:
        """The spans of `text`; none where it is blank."""
        for line in _LINE.finditer(text):
            for start, end in self._sentences(line.group()):
                yield from self._pieces(text, line.start() + start, line.start() + end)

    def _sentences(self, line: str) -> Iterator[Span]:
        for _, (start, end) in self._punkt.tokenize_with_spans(line):
            for sentence in _UNSPACED_SENTENCE.finditer(line, start, end):
                yield sentence.span()

    def _pieces(self, text: str, start: int, end: int) -> Iterator[Span]:
        while start < end:
            cut = end if end - start <= self._chars_max else _cut(text, start, start + self._chars_max)
            if piece := _trimmed(text, start, cut):
                yield piece
            start = cut


def _cut(text: str, start: int, end: int) -> int:
    """Where to end a piece of a text that goes on at `end`: after the last blank of its second half, if it has one."""
    for position in range(end, start + (end - start) // 2, -1):
        if _BLANK.match(text, position - 1):
            return position
    return end


def _trimmed(text: str, start: int, end: int) -> Span | None:
    sentence = text[start:end]
    stripped = sentence.strip()
    if not stripped:
        return None
    start += sentence.index(stripped)
    return start, start + len(stripped)
