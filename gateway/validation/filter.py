"""A text looked through while it comes: what may still become a find is held back. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from gateway.validation.check import Check, Match

# Of what was decided on, so much stays: a span may look at what stands before it.
_BEFORE: Final = 2


class Action(StrEnum):
    """What is done about a find."""

    FLAG = "flag"
    REDACT = "redact"
    BLOCK = "block"
    RETRY = "retry"


class Blocked(Exception):  # noqa: N818 - no error of anybody's, but what was asked for
    """The text has what nobody may read; nothing of it has been given out."""

    def __init__(self, match: Match) -> None:
        super().__init__(f"{match.check}: {match.kind}")
        self.match = match


class Filter:
    """`feed` as text comes, `finish` at its end: together they give the text, with what is to be redacted replaced.

    What they give and find does not depend on how the text was cut. What is held back is at most a span of the checks,
    usually a word. Raises Blocked.
    """

    def __init__(self, checks: Sequence[tuple[Check, Action]]) -> None:
        self._checks = checks
        self._actions: Mapping[str, Action] = {check.name: action for check, action in checks}
        self._text = ""
        # Up to here the text is decided on.
        self._at = 0
        self.found: Counter[tuple[str, str]] = Counter()

    def feed(self, text: str) -> str:
        """What can be given out by now."""
        self._text += text
        undecided = min((check.pending(self._text, self._at) for check, _ in self._checks), default=len(self._text))
        return self._given(undecided)

    def finish(self) -> str:
        """What was held back."""
        return self._given(len(self._text))

    def _given(self, until: int) -> str:
        """The text up to where it is undecided; a span that begins before that goes out whole."""
        out: list[str] = []
        text = self._text
        while self._at < until:
            match = self._first(until)
            if match is None:
                out.append(text[self._at : until])
                self._at = until
                break
            out += [text[self._at : match.start], self._acted(match)]
            self._at = match.end
        kept = max(0, self._at - _BEFORE)
        self._text, self._at = text[kept:], self._at - kept
        return "".join(out)

    def _first(self, until: int) -> Match | None:
        """The first span that begins before `until`; of several, the longest."""
        found = [
            match
            for check, _ in self._checks
            if (match := next(iter(check.matches(self._text, self._at)), None)) and match.start < until
        ]
        return min(found, key=lambda match: (match.start, -match.end), default=None)

    def _acted(self, match: Match) -> str:
        self.found[match.check, match.kind] += 1
        action = self._actions[match.check]
        if action in (Action.BLOCK, Action.RETRY):
            raise Blocked(match)
        return f"[{match.kind}]" if action is Action.REDACT else self._text[match.start : match.end]
