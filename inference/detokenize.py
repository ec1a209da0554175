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
        # How much of what is held has gone out all the same, by another replica that took the reply to be over.
        self._out = 0
        self.stopped = False

    def push(self, ids: Iterable[int]) -> str:
        """What the ids add to the text; empty while a character is incomplete, and after a stop string."""
        if self.stopped:
            return ""
        return self._release(self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, ids))))

    def resume(self, ids: Iterable[int], sent: str) -> str | None:
        """Takes a reply over that began with these ids, of which `sent` has gone out: what of their text has not.

        None where `sent` is not what comes of the ids; the detokenizer is of no use then.
        """
        text = self.push(ids)
        if text.startswith(sent):
            return text[len(sent) :]
        ahead = sent.removeprefix(text)
        if not sent.startswith(text) or not self._held.startswith(ahead):
            return None
        self._out = len(ahead)
        return ""

    def resume_text(self, sent: str) -> None:
        """Takes a reply over by the text of it that has gone out, whatever tokens it was made of."""
        text = self._release(sent)
        self._out = len(sent) - len(text) if not self.stopped else 0

    def finish(self) -> str:
        """The rest; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._utf8.decode(b"", final=True))
        rest, self._held = self._held[self._out :], ""
        return text + rest

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [(position + len(stop), position) for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            # The one that is complete first, so that the cut does not depend on how the text was divided.
            self.stopped, self._held = True, ""
            return text[self._out : min(found)[1]]
        free = len(text) - self._undecided(text)
        self._held = text[free:]
        released, self._out = text[self._out : free], max(0, self._out - free)
        return released

    def _undecided(self, text: str) -> int:
        """How many characters at the end may yet become a stop string."""
        longest = max((len(stop) for stop in self._stop), default=0)
        sizes = range(min(longest - 1, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stop)), 0)
