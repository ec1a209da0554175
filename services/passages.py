"""Passages: how a document is divided for searches and for vectors. Shard and compressor cut the same ones. Pure.

A passage has at most so many bytes and shares its beginning with the end of the one before. Cuts depend on the
document's bytes alone, not on the fragments in which they come.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from isthmus.session.v1 import document_pb2

from services.cuts import ESTIMATE_BYTES_PER_TOKEN, cut, start_after
from services.digest import DIGEST_BYTES

# Another way to cut makes other passages, of which no vector that is stored is one.
_VERSION: Final = 1


TOKENS_DEFAULT: Final = 800
TOKENS_MIN: Final = 100
TOKENS_MAX: Final = 4_096


def cuts_of(document: document_pb2.Document) -> tuple[int, int]:
    """(tokens of a passage at most, tokens that it shares with the one before) of a document, however old it is."""
    if not document.passage_tokens_max:
        return TOKENS_DEFAULT, TOKENS_DEFAULT // 2
    return document.passage_tokens_max, document.passage_overlap_tokens


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: where it begins, in UTF-8 bytes, and the log's fragments that it lies in.

    It begins `lead_bytes` behind the beginning of the first of them.
    """

    start_byte: int
    lead_bytes: int
    first_sequence: int
    last_sequence: int
    text: str


class PassageCutter:
    """Cuts a document's text as it comes. At most one passage and one fragment are held."""

    def __init__(self, tokens_max: int, overlap_tokens: int) -> None:
        self._bytes_max = tokens_max * ESTIMATE_BYTES_PER_TOKEN
        self._overlap = overlap_tokens * ESTIMATE_BYTES_PER_TOKEN
        self._rest = bytearray()
        # Of the document: where `_rest` begins, and where the last passage ended.
        self._start = 0
        self._end = 0
        # Where the fragments begin that `_rest` has parts of, and their numbers.
        self._places: list[int] = []
        self._sequences: list[int] = []

    def feed(self, sequence: int, text: str) -> Iterator[Passage]:
        """The passages that the next fragment completes."""
        self._places.append(self._start + len(self._rest))
        self._sequences.append(sequence)
        self._rest += text.encode()
        while len(self._rest) > self._bytes_max:
            size = cut(self._rest, self._bytes_max)
            yield self._passage(size)
            self._advance(size)

    def end(self) -> Iterator[Passage]:
        """The last passage, unless there is nothing in it that was in none."""
        if self._start + len(self._rest) > self._end:
            yield self._passage(len(self._rest))

    def _passage(self, size: int) -> Passage:
        self._end = self._start + size
        first, last = (bisect_right(self._places, place) - 1 for place in (self._start, self._end - 1))
        lead = self._start - self._places[first]
        return Passage(self._start, lead, self._sequences[first], self._sequences[last], self._rest[:size].decode())

    def _advance(self, size: int) -> None:
        # However short it is, the next one begins in the second half of this one: their number is bounded.
        step = start_after(self._rest, size - min(self._overlap, size // 2), size)
        del self._rest[:step]
        self._start += step
        gone = bisect_right(self._places, self._start) - 1
        del self._places[:gone], self._sequences[:gone]


def passages(fragments: Iterable[tuple[int, str]], tokens_max: int, overlap_tokens: int) -> Iterator[Passage]:
    """The passages of a document's fragments, each with its number in the log."""
    cutter = PassageCutter(tokens_max, overlap_tokens)
    for sequence, text in fragments:
        yield from cutter.feed(sequence, text)
    yield from cutter.end()


class PassageSource:
    """What vectors are made from: the digests of a document's fragments, in order, and how it is cut."""

    def __init__(self, tokens_max: int, overlap_tokens: int) -> None:
        self._whole = blake2b(b"%d:%d:%d" % (_VERSION, tokens_max, overlap_tokens), digest_size=DIGEST_BYTES)

    def add(self, digest: bytes) -> None:
        """Takes in the next fragment's."""
        self._whole.update(digest)

    def digest(self) -> bytes:
        """16 bytes."""
        return self._whole.digest()
