"""How much of a reply stands in what it was made from, as that comes in, text by text. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.claims.words import WORDS_COUNT_MIN, Span, informative, sentences, share, stems


@dataclass(frozen=True, slots=True)
class Grounded:
    """`score` is the mean share of the sentences' informative words that were there, 1 where none informs.

    `ungrounded` are the places of those sentences of which too little was there.
    """

    score: float
    sentences: int
    ungrounded: tuple[Span, ...]


class Grounding:
    """A reply that is looked up in texts: `read` each, then ask for `found`. Reading more never lowers the score.

    Holds the reply's own words and nothing of the texts.
    """

    def __init__(self, reply: str) -> None:
        found = [(span, informative(reply[slice(*span)])) for span in sentences(reply)]
        self._claims = [(span, words) for span, words in found if len(words) >= WORDS_COUNT_MIN]
        self._missing = {word for _, words in self._claims for word in words}
        self._there: set[str] = set()

    def is_whole(self) -> bool:
        """Whether all of it was there by now, so that nothing more need be read."""
        return not self._missing

    def read(self, text: str) -> None:
        """Looks the reply's words up in one more text."""
        there = self._missing & stems(text)
        self._missing -= there
        self._there |= there

    def found(self, share_min: float) -> Grounded:
        """By what was read until now; sentences below `share_min` are ungrounded."""
        shares = [(span, share(words, self._there)) for span, words in self._claims]
        score = sum(each for _, each in shares) / len(shares) if shares else 1.0
        return Grounded(score, len(shares), tuple(span for span, each in shares if each < share_min))
