"""The words of a text: runs of letters and digits; runs of Han and kana count as pairs of characters. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD: Final = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_UNSPACED_CHARACTER: Final = re.compile(rf"[{_UNSPACED}]")
_UNSPACED_RUN: Final = re.compile(rf"[{_UNSPACED}]{{2,}}")


def words(text: str) -> list[str]:
    """The words in their order, as they are written."""
    found: list[str] = _WORD.findall(text)
    return list(_pairs(found)) if _UNSPACED_CHARACTER.search(text) else found


def _pairs(found: list[str]) -> Iterator[str]:
    for word in found:
        if _UNSPACED_RUN.fullmatch(word):
            yield from map("".join, pairwise(word))
        else:
            yield word
