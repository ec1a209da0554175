"""The events of a reply's items, in the order that OpenAI's Responses API promises. Pure.

They follow from the reply's text alone. Wherever its pieces begin and end, the same items come with the same contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from isthmus.session.v1 import message_pb2

from gateway.http.ids import ResponseId
from gateway.http.objects import FunctionCall, Item, Message, OutputText
from gateway.http.tools.items import called, said
from gateway.tools.calls import Arguments, Call, Called, CallEnded, CallReader, Event, Text

# An event's type and its fields.
Told: TypeAlias = tuple[str, dict[str, Any]]


class ItemEvents:
    """Opens an item when its first piece is there, and closes it when the next one begins or the reply ends."""

    def __init__(self, name: ResponseId, tools: message_pb2.ToolUse | None) -> None:
        self._name = name
        self._reader = CallReader(tools)
        self._sent: list[str] = []
        self._index = -1
        self._open: Item | None = None
        self._pieces: list[str] = []
        # Whether a call that is open was told in full.
        self._is_whole = True

    def feed(self, text: str) -> Iterator[Told]:
        """More of the reply."""
        self._sent.append(text)
        for event in self._reader.feed(text):
            yield from self._told(event)

    def finish(self, text: str, *, is_cut: bool) -> Iterator[Told]:
        """The reply is whole; what of it did not come before comes now."""
        sent = "".join(self._sent)
        if text.startswith(sent):
            yield from self.feed(text[len(sent) :])
        for event in self._reader.finish():
            yield from self._told(event)
        if self._index < 0:
            yield from self._begin_text()
        yield from self._close(is_cut=is_cut)

    def _told(self, event: Event) -> Iterator[Told]:
        match event:
            case Text(text):
                if not isinstance(self._open, Message):
                    yield from self._close()
                    yield from self._begin_text()
                self._pieces.append(text)
                yield "response.output_text.delta", {**self._place(), "delta": text, "logprobs": []}
            case Called(name):
                yield from self._close()
                yield from self._begin_call(name)
            case Arguments(text):
                self._pieces.append(text)
                yield "response.function_call_arguments.delta", {**self._item(), "delta": text}
            case CallEnded(is_whole):
                self._is_whole = is_whole

    def _begin_text(self) -> Iterator[Told]:
        self._index += 1
        self._pieces = []
        opened = said(self._name.session, self._name.turn, self._index, "", "in_progress")
        self._open = msgspec.structs.replace(opened, content=[])
        yield "response.output_item.added", {"output_index": self._index, "item": self._open}
        yield "response.content_part.added", {**self._place(), "part": OutputText("")}

    def _begin_call(self, name: str) -> Iterator[Told]:
        self._index += 1
        self._pieces, self._is_whole = [], False
        self._open = called(self._name.session, self._name.turn, self._index, Call(name, ""), "in_progress")
        yield "response.output_item.added", {"output_index": self._index, "item": self._open}

    def _close(self, *, is_cut: bool = False) -> Iterator[Told]:
        opened, whole = self._open, "".join(self._pieces)
        self._open = None
        if isinstance(opened, Message):
            part = OutputText(whole)
            yield "response.output_text.done", {**self._place(opened), "text": whole, "logprobs": []}
            yield "response.content_part.done", {**self._place(opened), "part": part}
            status = "incomplete" if is_cut else "completed"
            done: Item = msgspec.structs.replace(opened, content=[part], status=status)
        elif isinstance(opened, FunctionCall):
            fields = {**self._item(opened), "name": opened.name, "arguments": whole}
            yield "response.function_call_arguments.done", fields
            status = "completed" if self._is_whole and not is_cut else "incomplete"
            done = msgspec.structs.replace(opened, arguments=whole, status=status)
        else:
            return
        yield "response.output_item.done", {"output_index": self._index, "item": done}

    def _item(self, item: Item | None = None) -> dict[str, Any]:
        named = item or self._open
        return {"item_id": "" if named is None else named.id, "output_index": self._index}

    def _place(self, item: Item | None = None) -> dict[str, Any]:
        return {**self._item(item), "content_index": 0}
