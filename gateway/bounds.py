"""The contract's bounds that no single field's rule can say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from isthmus.session.v1 import message_pb2

from services.errors import InvalidField

# What RunTurn and AppendMessages promise to take, texts and authors together.
MESSAGES_BYTES_MAX: Final = 2 << 20


def check_messages(messages: Iterable[message_pb2.Message]) -> None:
    """InvalidField if the messages of one request are too much together."""
    size = sum(message.ByteSize() for message in messages)
    if size > MESSAGES_BYTES_MAX:
        raise InvalidField(
            "messages",
            f"hold {size} bytes together, expected at most {MESSAGES_BYTES_MAX}; stream longer texts by IngestDocument",
        )
