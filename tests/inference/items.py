"""Window items and manifests as a shard makes them."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.context.v1 import window_pb2
from isthmus.session.v1 import message_pb2

from services.digest import EMPTY, chain, item_digest

USER = message_pb2.ROLE_USER
ASSISTANT = message_pb2.ROLE_ASSISTANT
SYSTEM = message_pb2.ROLE_SYSTEM
TOOL = message_pb2.ROLE_TOOL
MESSAGE = window_pb2.WINDOW_ITEM_KIND_MESSAGE
REPLY = window_pb2.WINDOW_ITEM_KIND_REPLY
DOCUMENT = window_pb2.WINDOW_ITEM_KIND_DOCUMENT
SUMMARY = window_pb2.WINDOW_ITEM_KIND_SUMMARY


def item(
    text: str,
    role: message_pb2.Role.ValueType = USER,
    kind: window_pb2.WindowItemKind.ValueType = MESSAGE,
    *,
    author: str = "",
    part: int = 0,
    sequence: int = 1,
) -> window_pb2.WindowItem:
    made = window_pb2.WindowItem(
        kind=kind, role=role, author=author, text=text, part=part, first_sequence=sequence, last_sequence=sequence
    )
    made.digest = item_digest(made)
    return made


def reply(text: str, *, part: int = 0, sequence: int = 1) -> window_pb2.WindowItem:
    return item(text, ASSISTANT, REPLY, part=part, sequence=sequence)


def checkpoint(items: Sequence[window_pb2.WindowItem]) -> window_pb2.Checkpoint:
    digest = EMPTY
    for each in items:
        digest = chain(digest, each.digest)
    return window_pb2.Checkpoint(item_count=len(items), digest=digest)


def manifest(
    items: Sequence[window_pb2.WindowItem], prefix: int = 0, *, inline: bool = True, epoch: int = 1
) -> window_pb2.Manifest:
    """The manifest of a window whose first `prefix` items were the last turn's; `inline` brings the others along."""
    return window_pb2.Manifest(
        epoch=epoch,
        end=checkpoint(items),
        prefix=checkpoint(items[:prefix]),
        new_items=items[prefix:] if inline else [],
    )
