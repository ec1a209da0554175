"""From the log's fragments to OpenAI's items: the pieces of a long message are one item again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.session.v1 import fragment_pb2, message_pb2

from gateway.http.ids import MessageId
from gateway.http.objects import InputText, Message, OutputText

_ROLES = {
    message_pb2.ROLE_SYSTEM: "system",
    message_pb2.ROLE_USER: "user",
    message_pb2.ROLE_ASSISTANT: "assistant",
    message_pb2.ROLE_TOOL: "tool",
}


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


def item_of(session: str, pieces: Sequence[fragment_pb2.Fragment]) -> Message:
    """The item of its pieces."""
    head = pieces[0]
    is_reply = head.kind == fragment_pb2.FRAGMENT_KIND_REPLY
    name = MessageId(session, head.turn if is_reply else head.sequence, is_reply)
    return message(name, head.role, "".join(piece.text for piece in pieces))


def message(name: MessageId, role: message_pb2.Role.ValueType, text: str) -> Message:
    """A complete message."""
    content = OutputText(text) if role == message_pb2.ROLE_ASSISTANT else InputText(text)
    return Message(id=str(name), role=_ROLES.get(role, "unknown"), status="completed", content=[content])
