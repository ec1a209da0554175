"""Token ids to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from inference.tokenizer import Tokenizer


class Detokenizer:
    """The text of one reply. Its parts put together are the decoded ids up to the first stop string.

    Text that may turn out to be the beginning of a stop string is held back until that is decided: at most the length
    of the longest stop string less one character.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, ids: Iterable[int]) -> str:
        """What the ids add to the text; empty while a character is incomplete, and after a stop string."""
        if self.stopped:
            return ""
        return self._release(self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, ids))))

    def finish(self) -> str:
        """The rest; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._utf8.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [(position + len(stop), position) for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            # The one that is complete first, so that the cut does not depend on how the text was divided.
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _undecided(self, text: str) -> int:
        """How many characters at the end may yet become a stop string."""
        longest = max((len(stop) for stop in self._stop), default=0)
        sizes = range(min(longest - 1, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stop)), 0)
