"""OpenAI's ids over ours: each names its session and its place there, so that no table of ids is kept anywhere.

| id | what it names |
|---|---|
| `resp_<session>_<turn>` | a turn |
| `conv_<session>` | a session |
| `msg_<session>_<sequence>` | the message whose first fragment has this sequence number |
| `msg_<session>_r<turn>` | the reply of a turn: its id is told while it streams, before it has a sequence number |
| `msg_<session>_r<turn>_<n>` | item n of a reply that has several |
| `fc_…`, `fco_…` | the same places, where a call of a function or what it gave back stands there |

Session ids have no underscore, so the parts cannot run into each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

from services.errors import InvalidField

_SESSION = r"[a-z0-9][a-z0-9-]{0,62}"
_NUMBER = r"[1-9][0-9]{0,17}"
_RESPONSE = re.compile(rf"resp_({_SESSION})_({_NUMBER})")
_CONVERSATION = re.compile(rf"conv_({_SESSION})")
_MESSAGE = re.compile(rf"(msg|fco|fc)_({_SESSION})_(?:({_NUMBER})|r({_NUMBER})(?:_([1-9][0-9]{{0,8}}))?)")
_SHOWN_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class ResponseId:
    """A turn of a session."""

    session: str
    turn: int

    def __str__(self) -> str:
        return f"resp_{self.session}_{self.turn}"


class ItemKind(Enum):
    """What stands in an item's place, by the beginning of its id."""

    MESSAGE = "msg"
    CALL = "fc"
    OUTPUT = "fco"


@dataclass(frozen=True, slots=True)
class MessageId:
    """A message by its first sequence number, or an item of a reply by its turn and its place there."""

    session: str
    number: int
    is_reply: bool = False
    index: int = 0
    kind: ItemKind = ItemKind.MESSAGE

    def __str__(self) -> str:
        place = f"r{self.number}" if self.is_reply else str(self.number)
        return f"{self.kind.value}_{self.session}_{place}" + (f"_{self.index}" if self.index else "")


def conversation_id(session: str) -> str:
    """`conv_<session>`."""
    return f"conv_{session}"


def parse_response(text: str, param: str) -> ResponseId:
    """The turn that a response's id names; InvalidField on `param` if it is no such id."""
    match = _match(_RESPONSE, text, param, "resp_<session>_<turn>, as a response's `id` gives it")
    return ResponseId(match[1], int(match[2]))


def parse_conversation(text: str, param: str) -> str:
    """The session that a conversation's id names; InvalidField on `param` if it is no such id."""
    return _match(_CONVERSATION, text, param, "conv_<session>, as a conversation's `id` gives it")[1]


def parse_message(text: str, param: str) -> MessageId:
    """The message that an item's id names; InvalidField on `param` if it is no such id."""
    match = _match(_MESSAGE, text, param, "msg_<session>_<number>, as an item's `id` gives it")
    kind = ItemKind(match[1])
    if match[3]:
        return MessageId(match[2], int(match[3]), kind=kind)
    return MessageId(match[2], int(match[4]), is_reply=True, index=int(match[5] or 0), kind=kind)


def session_of_key(tenant: str, idempotency_key: str) -> str:
    """The session that a first response under this key makes: the same for every retry, another for each tenant."""
    digest = blake2b(idempotency_key.encode(), key=tenant.encode()[:64], digest_size=16)
    return f"r-{digest.hexdigest()}"


def _match(pattern: re.Pattern[str], text: str, param: str, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise InvalidField(param, f"is {text[:_SHOWN_CHARS_MAX]!r}, expected {expected}")
    return match
