"""From the log's fragments to OpenAI's items: the pieces of a long message are one item again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.session.v1 import fragment_pb2, message_pb2

from gateway.http.objects import Item
from gateway.http.tools.items import message, reply_items
from services.tool_calls import OPEN


class Grouping:
    """Gathers fragments, given in the log's order or against it, into items.

    Pieces of one message or reply belong together. A piece of a document is an item of its own, so that a page of
    items costs no more than a page, however long the documents are. What was erased is no item.
    """

    def __init__(self, descending: bool) -> None:
        self._descending = descending
        self._open: list[fragment_pb2.Fragment] = []

    def add(self, fragment: fragment_pb2.Fragment) -> Sequence[fragment_pb2.Fragment]:
        """Takes the next fragment; the pieces of the item that it shows to be complete, if any."""
        if not fragment.text:
            return self.close()
        if self._open and self._continues(fragment):
            self._open.insert(0 if self._descending else len(self._open), fragment)
            return ()
        complete, self._open = self._open, [fragment]
        return complete

    def close(self) -> Sequence[fragment_pb2.Fragment]:
        """The pieces of the last item, when no fragment follows."""
        complete, self._open = self._open, []
        return complete

    def _continues(self, fragment: fragment_pb2.Fragment) -> bool:
        if self._descending:
            return _follows(fragment, self._open[0])
        return _follows(self._open[-1], fragment)


def _follows(first: fragment_pb2.Fragment, second: fragment_pb2.Fragment) -> bool:
    """Whether `second` is the next piece of the message or reply that `first` is a piece of."""
    return (
        first.kind == second.kind != fragment_pb2.FRAGMENT_KIND_DOCUMENT
        and second.sequence == first.sequence + 1
        and second.part == first.part + 1
    )


def items_of(session: str, pieces: Sequence[fragment_pb2.Fragment], tools: message_pb2.ToolUse | None) -> list[Item]:
    """The items of these pieces, in order: one, or those of a reply that calls what `tools` lets it call."""
    head = pieces[0]
    text = "".join(piece.text for piece in pieces)
    if head.kind == fragment_pb2.FRAGMENT_KIND_REPLY:
        return reply_items(session, head.turn, text, tools)
    return [message(session, head.sequence, head.role, text, head.author)]


def may_call(pieces: Sequence[fragment_pb2.Fragment]) -> bool:
    """Whether these are a reply's with what may be a call in it: only its turn knows."""
    head = pieces[0]
    return head.kind == fragment_pb2.FRAGMENT_KIND_REPLY and OPEN in "".join(piece.text for piece in pieces)
