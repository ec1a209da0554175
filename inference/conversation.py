"""A window's token ids taken apart into messages again, for providers that take conversations and no prompts.

Only a template's frames place control tokens, and no content can spell one. So where each frame begins with a control
token, the ids say beyond doubt which message ends where, whatever the messages say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from inference import frames
from inference.frames import Frames
from inference.tokenizer import TokenIds, Tokenizer
from inference.vocabulary import Vocabulary

_Pieces: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """Who speaks (`system`, `user`, `assistant`, `tool`), and what."""

    role: str
    text: str


class Conversations:
    """Takes windows of one tokenizer and its template apart. Raises ValueError for a template that leaves doubts."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer = tokenizer
        known = Frames(frames.renderer(vocabulary.chat_template, vocabulary.variables))
        # By the role before: each next role's frame, those that begin alike with the longest first.
        self._frames: dict[str, list[tuple[str, _Pieces]]] = {before: [] for before in (frames.START, *frames.ROLES)}
        for (before, role), text in known.between.items():
            pieces = tuple(tokenizer.split(text))
            if isinstance(pieces[0], int):
                self._frames[before].append((role, pieces))
            elif role in (frames.USER, frames.ASSISTANT) and before != role:
                raise ValueError(
                    f"the chat template begins a message of {role!r} without a control token; expected one that does,"
                    " as ChatML does, for a provider that takes conversations"
                )
        for each in self._frames.values():
            each.sort(key=lambda frame: -len("".join(map(str, frame[1]))))

    def messages(self, window: TokenIds) -> list[Message]:
        """The messages of a window, in order. Raises ValueError for ids that are no window of this template."""
        pieces = list(self._pieces(window))
        found: list[Message] = []
        at, before = 0, frames.START
        while at < len(pieces):
            role, at, text = self._framed(pieces, at, before)
            if at < len(pieces) and isinstance(piece := pieces[at], str) and not text:
                text, at = piece, at + 1
            found.append(Message(role, text))
            before = role
        return found

    def _framed(self, pieces: Sequence[str | int], at: int, before: str) -> tuple[str, int, str]:
        """The frame at a place: its role, the place behind it, and the content that its last piece begins."""
        for role, frame in self._frames[before]:
            rest = _after(pieces, at, frame)
            if rest is not None:
                return role, at + len(frame), rest
        raise ValueError(f"no message of the template begins at piece {at} of the window")

    def _pieces(self, window: TokenIds) -> Iterator[str | int]:
        text: list[int] = []
        for token in window.tolist():
            if token not in self._tokenizer.special_ids:
                text.append(token)
                continue
            if text:
                yield self._tokenizer.decode(text)
                text = []
            yield token
        if text:
            yield self._tokenizer.decode(text)


def _after(pieces: Sequence[str | int], at: int, frame: _Pieces) -> str | None:
    """What is left of the frame's last piece, which is content; None where the frame is not there."""
    there = pieces[at : at + len(frame)]
    if len(there) < len(frame) or tuple(there[:-1]) != frame[:-1]:
        return None
    last, own = there[-1], frame[-1]
    if isinstance(last, str) and isinstance(own, str):
        return last[len(own) :] if last.startswith(own) else None
    return "" if last == own else None


class Echo:
    """Takes out of a continuation what the provider says again of the beginning that it was given.

    Providers differ: some go on, some begin anew with the whole reply. Only all of it, from its first character on, is
    an echo; short beginnings may well come again by themselves.
    """

    CHARS_MIN: Final = 16

    def __init__(self, given: str, sent: str) -> None:
        """`given` is what has gone out, `sent` what the provider was told of it, without the blanks at its end."""
        self._echo = given if len(given) >= self.CHARS_MIN else ""
        self._blanks = given[len(sent) :]
        self._held = ""
        self._is_over = not given

    def push(self, text: str) -> str:
        """What of the text is new."""
        if self._is_over:
            return text
        self._held += text
        if self._held.startswith(self._echo) and self._echo:
            return self._release(self._held[len(self._echo) :])
        if self._echo.startswith(self._held) or self._blanks.startswith(self._held):
            return ""
        return self._release(self._held.removeprefix(self._blanks))

    def finish(self) -> str:
        """What was held back, now that nothing else comes."""
        return "" if self._is_over else self._release(self._held.removeprefix(self._blanks))

    def _release(self, text: str) -> str:
        self._is_over = True
        return text
