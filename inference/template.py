"""A model's chat template, one window item at a time.

An item's tokens depend on the item and on what stands right before it, on nothing after it, so a window's ids only
grow at their end. Therefore an item opens its message and leaves it open: the next item closes it, or goes on in it if
it is the next part of the same split text. The first item also brings what stands before all messages.

Only the frame places control tokens. Content is encoded as plain text, so `<|im_end|>` in a message is punctuation
and letters, and nobody can close his message and speak as somebody else.
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

from inference import frames
from inference.frames import Frames
from inference.tokenizer import TokenIds, Tokenizer
from services import tool_calls

# Part of the tokenizer's digest: whoever changes a rule below changes it, and old counts are void.
RULES: Final = "items-3"
# What stands before the first item, in place of the mark of the item before.
START: Final = 0

_ROLES: Final = {
    message_pb2.ROLE_SYSTEM: frames.SYSTEM,
    message_pb2.ROLE_USER: frames.USER,
    message_pb2.ROLE_ASSISTANT: frames.ASSISTANT,
    message_pb2.ROLE_TOOL: frames.TOOL,
}
NOTHING: Final[Mapping[int, TokenIds]] = MappingProxyType({})
_MARK: Final = struct.Struct(">iiiq")
_NOTHING: Final[TokenIds] = np.zeros(0, dtype=np.int32)
# The bits of a mark that say the item's role: its place in frames.ROLES, counted from one.
_ROLE_BITS: Final = 3


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item as tokens.

    `ids` are what it adds to the window, `mark` is what the next item must know of it, and `count` is what it costs at
    most wherever it stands: its tokens in a message of its own, frame included.
    """

    ids: TokenIds
    mark: int
    count: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands before a content: ids up to the last control token, and text that is encoded with the content."""

    head: TokenIds
    opening: str


class ChatTemplate:
    """The frame of a model's conversation, with the ids of its constant pieces.

    `template` is the model's own, in Jinja; `variables` are the texts that it may ask for, such as `bos_token`. Raises
    TemplateError for one that renders no conversation.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._tokenizer = tokenizer
        known = Frames(frames.renderer(template, variables))
        self._frames = {place: self._frame(text) for place, text in known.between.items()}
        self._headers = {role: self._ids(text) for role, text in known.header.items()}
        # A window may begin with a reply that the model has made.
        self._headers[frames.START] = self._ids(known.between[frames.START, frames.ASSISTANT])
        befores = frames.ROLES
        self._frame_tokens = {
            role: max(len(self._frames[before, role].head) for before in befores) for role in frames.ROLES
        }
        # What follows the last item of a window to have the model speak.
        self.reply_header: Final[TokenIds] = self._headers[frames.USER]

    @property
    def overhead_tokens(self) -> int:
        """The most that a prompt has beyond the counts of its items."""
        begin = max(len(self._frames[frames.START, role].head) - self._frame_tokens[role] for role in frames.ROLES)
        return max(0, begin) + len(self.reply_header)

    def encode(
        self, items: Sequence[window_pb2.WindowItem], previous: int, generated: Mapping[int, TokenIds] = NOTHING
    ) -> list[Encoded]:
        """Items that follow one another, after an item with the mark `previous`, or START.

        `generated` has, by position, the ids that the model itself made of a reply's text: with them the engine's
        cached prefix stays whole, where another spelling of the same text would break it.
        """
        marks = [previous, *map(mark, items)]
        goes_on = {index for index, item in enumerate(items) if continues(item, marks[index])}
        befores = [self._frames[_role_of(before), role(item)] for before, item in zip(marks, items, strict=False)]
        openings = [before.opening + heading(item) for before, item in zip(befores, items, strict=True)]
        contents = self._tokenizer.encode_batch(
            [
                "" if at in generated else item.text if at in goes_on else openings[at] + item.text
                for at, item in enumerate(items)
            ]
        )
        heads = [_NOTHING if at in goes_on else before.head for at, before in enumerate(befores)]
        for at, ids in generated.items():
            # As the model was asked for it, and went on.
            header = self._headers[_role_of(marks[at])]
            head = min(len(heads[at]), len(header))
            heads[at], contents[at] = header[:head], np.concatenate([header[head:], ids])
        unopened = {at: len(self._tokenizer.encode(openings[at])) for at in goes_on}
        return [
            Encoded(
                ids=np.concatenate([heads[at], contents[at]]),
                mark=marks[at + 1],
                count=len(contents[at]) + unopened.get(at, 0) + self._frame_tokens[role(item)],
            )
            for at, item in enumerate(items)
        ]

    def counts(self, items: Sequence[window_pb2.WindowItem]) -> list[int]:
        """The tokens of each item in a message of its own, frame included."""
        opened = [self._frames[frames.USER, role(item)].opening + heading(item) for item in items]
        contents = self._tokenizer.encode_batch([text + item.text for text, item in zip(opened, items, strict=True)])
        return [len(content) + self._frame_tokens[role(item)] for content, item in zip(contents, items, strict=True)]

    def _frame(self, text: str) -> _Frame:
        *pieces, last = self._tokenizer.split(text)
        if isinstance(last, str):
            return _Frame(self._joined(pieces), last)
        return _Frame(self._joined([*pieces, last]), "")

    def _ids(self, text: str) -> TokenIds:
        return self._joined(self._tokenizer.split(text))

    def _joined(self, pieces: Sequence[str | int]) -> TokenIds:
        """The ids of texts and of control tokens that are ids already."""
        ids = [
            self._tokenizer.encode(each) if isinstance(each, str) else np.asarray([each], dtype=np.int32)
            for each in pieces
        ]
        return np.concatenate([_NOTHING, *ids])


def role(item: window_pb2.WindowItem) -> str:
    """Who speaks. Documents and summaries come as the user's words: what they say must not rule over the model."""
    if item.kind == window_pb2.WINDOW_ITEM_KIND_REPLY:
        return frames.ASSISTANT
    if item.kind in (window_pb2.WINDOW_ITEM_KIND_DOCUMENT, window_pb2.WINDOW_ITEM_KIND_SUMMARY):
        return frames.USER
    return _ROLES.get(item.role, frames.USER)


def heading(item: window_pb2.WindowItem) -> str:
    """What tells the model that a message is a document, a summary, or a named speaker's."""
    name = " ".join(item.author.split())
    if item.kind == window_pb2.WINDOW_ITEM_KIND_SUMMARY:
        return "Summary of an earlier part of this conversation:\n\n"
    if item.kind == window_pb2.WINDOW_ITEM_KIND_DOCUMENT:
        part = f", part {item.part + 1}" if item.part else ""
        return f'Document "{name}"{part}:\n\n'
    names_a_call = item.role == message_pb2.ROLE_TOOL or item.text.startswith(tool_calls.OPEN)
    if item.kind == window_pb2.WINDOW_ITEM_KIND_MESSAGE and name and not names_a_call:
        return f"{name}: "
    return ""


def mark(item: window_pb2.WindowItem) -> int:
    """An item's identity as one part of a split text, and its role: 63 bits, never START."""
    return _mark(item, item.part, item.last_sequence)


def continues(item: window_pb2.WindowItem, previous: int) -> bool:
    """Whether the item is the part right after the one with the mark `previous`."""
    return item.part > 0 and _mark(item, item.part - 1, item.first_sequence - 1) == previous


def _mark(item: window_pb2.WindowItem, part: int, sequence: int) -> int:
    digest = blake2b(_MARK.pack(item.kind, item.role, part, sequence) + item.author.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> (_ROLE_BITS + 1) << _ROLE_BITS | frames.ROLES.index(role(item)) + 1


def _role_of(mark_before: int) -> str:
    return frames.ROLES[(mark_before & (1 << _ROLE_BITS) - 1) - 1] if mark_before != START else frames.START
