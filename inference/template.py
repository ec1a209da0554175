"""ChatML, one window item at a time.

An item's tokens depend on the item and on what stands right before it, on nothing after it, so a window's ids only
grow at their end. Therefore an item opens its message and leaves it open: the next item closes it, or goes on in it if
it is the next part of the same split text. The first item also brings what stands before all messages.

Only the frame places control tokens. Content is encoded as plain text, so `<|im_end|>` in a message is six
characters of punctuation and letters, and nobody can close his message and speak as somebody else.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

import numpy as np
from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import message_pb2

from inference.tokenizer import TokenIds, Tokenizer

# Part of the tokenizer's digest: whoever changes a rule below changes it, and old counts are void.
RULES: Final = "chatml-items-1"
SYSTEM_DEFAULT: Final = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# What stands before the first item, in place of the mark of the item before.
START: Final = 0

_ROLES: Final = {
    message_pb2.ROLE_SYSTEM: "system",
    message_pb2.ROLE_USER: "user",
    message_pb2.ROLE_ASSISTANT: "assistant",
    message_pb2.ROLE_TOOL: "tool",
}
NOTHING: Final[Mapping[int, TokenIds]] = MappingProxyType({})
_MARK: Final = struct.Struct(">iiiq")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item as tokens.

    `ids` are what it adds to the window, `mark` is what the next item must know of it, and `count` is what it costs at
    most wherever it stands: its tokens in a message of its own, frame included.
    """

    ids: TokenIds
    mark: int
    count: int


class ChatTemplate:
    """The frame of a model's conversation, with the ids of its constant pieces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        open_id, close_id = tokenizer.special_id("<|im_start|>"), tokenizer.special_id("<|im_end|>")
        newline = tokenizer.encode("\n")
        self._open = np.asarray([open_id], dtype=np.int32)
        self._close = np.concatenate([np.asarray([close_id], dtype=np.int32), newline])
        self._preamble = np.concatenate([self._open, tokenizer.encode(f"system\n{SYSTEM_DEFAULT}"), self._close])
        self._frame_tokens = len(self._open) + len(self._close)
        self.reply_opening: Final[TokenIds] = np.concatenate([self._open, tokenizer.encode("assistant\n")])
        # What follows the last item of a window to have the model speak.
        self.reply_header: Final[TokenIds] = np.concatenate([self._close, self.reply_opening])

    @property
    def overhead_tokens(self) -> int:
        """The most that a prompt has beyond the counts of its items."""
        return len(self._preamble) + len(self.reply_opening)

    def encode(
        self, items: Sequence[window_pb2.WindowItem], previous: int, generated: Mapping[int, TokenIds] = NOTHING
    ) -> list[Encoded]:
        """Items that follow one another, after an item with the mark `previous`, or START.

        `generated` has, by position, the ids that the model itself made of a reply's text: with them the engine's
        cached prefix stays whole, where another spelling of the same text would break it.
        """
        marks = [previous, *map(mark, items)]
        goes_on = {index for index, item in enumerate(items) if continues(item, marks[index])}
        openings = ["" if index in generated else _opening(item) for index, item in enumerate(items)]
        contents = self._tokenizer.encode_batch(
            [
                "" if at in generated else item.text if at in goes_on else openings[at] + item.text
                for at, item in enumerate(items)
            ]
        )
        for index, ids in generated.items():
            contents[index] = np.concatenate([self.reply_opening[1:], ids])
        unopened = {index: len(self._tokenizer.encode(openings[index])) for index in goes_on}
        return [
            Encoded(
                ids=self._framed(item, contents[index], marks[index]),
                mark=marks[index + 1],
                count=len(contents[index]) + unopened.get(index, 0) + self._frame_tokens,
            )
            for index, item in enumerate(items)
        ]

    def counts(self, items: Sequence[window_pb2.WindowItem]) -> list[int]:
        """The tokens of each item in a message of its own, frame included."""
        contents = self._tokenizer.encode_batch([_opening(item) + item.text for item in items])
        return [len(content) + self._frame_tokens for content in contents]

    def _framed(self, item: window_pb2.WindowItem, content: TokenIds, previous: int) -> TokenIds:
        if continues(item, previous):
            return content
        if previous != START:
            return np.concatenate([self._close, self._open, content])
        if role(item) == "system":
            return np.concatenate([self._open, content])
        return np.concatenate([self._preamble, self._open, content])


def role(item: window_pb2.WindowItem) -> str:
    """Who speaks. Documents and summaries come as the user's words: what they say must not rule over the model."""
    if item.kind == window_pb2.WINDOW_ITEM_KIND_REPLY:
        return "assistant"
    if item.kind in (window_pb2.WINDOW_ITEM_KIND_DOCUMENT, window_pb2.WINDOW_ITEM_KIND_SUMMARY):
        return "user"
    return _ROLES.get(item.role, "user")


def heading(item: window_pb2.WindowItem) -> str:
    """What tells the model that a message is a document, a summary, or a named speaker's."""
    name = " ".join(item.author.split())
    if item.kind == window_pb2.WINDOW_ITEM_KIND_SUMMARY:
        return "Summary of an earlier part of this conversation:\n\n"
    if item.kind == window_pb2.WINDOW_ITEM_KIND_DOCUMENT:
        part = f", part {item.part + 1}" if item.part else ""
        return f'Document "{name}"{part}:\n\n'
    if item.kind == window_pb2.WINDOW_ITEM_KIND_MESSAGE and name:
        return f"{name}: "
    return ""


def mark(item: window_pb2.WindowItem) -> int:
    """An item's identity as one part of a split text: 63 bits, never START."""
    return _mark(item, item.part, item.last_sequence)


def continues(item: window_pb2.WindowItem, previous: int) -> bool:
    """Whether the item is the part right after the one with the mark `previous`."""
    return item.part > 0 and _mark(item, item.part - 1, item.first_sequence - 1) == previous


def _opening(item: window_pb2.WindowItem) -> str:
    return f"{role(item)}\n{heading(item)}"


def _mark(item: window_pb2.WindowItem, part: int, sequence: int) -> int:
    digest = blake2b(_MARK.pack(item.kind, item.role, part, sequence) + item.author.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 | 1
