"""An extract of one or several texts: some of their sentences, as they stand, in original order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compressor.coverage import Coverage
from compressor.sentences import SentenceSplitter

# What a summary is filed under; another algorithm is another method, other rules or weights another version.
METHOD: Final = "extractive-coverage"
VERSION: Final = 1

# A sentence in an extract takes its share of its source's tokens, and the line end that sets it apart.
_SEPARATOR_TOKENS: Final = 1.0
# On the safe side of every tokenizer, for when nobody counts.
_ESTIMATE_BYTES_PER_TOKEN: Final = 3


@dataclass(frozen=True, slots=True)
class Source:
    """A text and how many tokens it has, by count or by estimate."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence: `text` is characters `start` to `end` of source number `source`."""

    source: int
    start: int
    end: int
    text: str


class Extractor:
    """Cuts sources into sentences once, `pieces`, then makes extracts of any size from them."""

    def __init__(self, sources: Sequence[Source], splitter: SentenceSplitter) -> None:
        self.pieces: Final = [
            Piece(number, start, end, source.text[start:end])
            for number, source in enumerate(sources)
            for start, end in splitter(source.text)
        ]
        self._rates = [source.tokens / len(source.text.encode()) if source.text else 0.0 for source in sources]
        self._coverage = Coverage([piece.text for piece in self.pieces], [self._cost(piece) for piece in self.pieces])

    def choose(self, tokens_max: float) -> list[Piece]:
        """The sentences that carry most in at most this many tokens, as far as the sources' own counts tell."""
        return [self.pieces[index] for index in self._coverage.choose(tokens_max)]

    def cost(self, pieces: Sequence[Piece]) -> float:
        """What an extract counts against the bound of `choose`."""
        return sum(map(self._cost, pieces))

    def _cost(self, piece: Piece) -> float:
        return len(piece.text.encode()) * self._rates[piece.source] + _SEPARATOR_TOKENS


def estimate_tokens(text: str) -> int:
    """Tokens of a text that nobody has counted: ceil(UTF-8 bytes / 3)."""
    return -(-len(text.encode()) // _ESTIMATE_BYTES_PER_TOKEN)


def render(pieces: Sequence[Piece]) -> str:
    """An extract as one text, a sentence a line: what its tokens are counted on."""
    return "\n".join(piece.text for piece in pieces)
