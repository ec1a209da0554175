"""The events of a streamed response, in the order that OpenAI's Responses API promises. Pure.

created → in_progress → the items (`tools/stream.py`) → completed or incomplete; `failed` may come anywhere after
in_progress. Of a text: output_item.added → content_part.added → output_text.delta… → output_text.done →
content_part.done → output_item.done; of a call: output_item.added → function_call_arguments.delta… →
function_call_arguments.done → output_item.done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from isthmus.session.v1 import message_pb2

from gateway.http.ids import ResponseId
from gateway.http.objects import Response, ResponseError
from gateway.http.tools.stream import ItemEvents

Event = dict[str, Any]


class ResponseEvents:
    """Numbers the events of one response from 0 on; those of its items are ItemEvents'."""

    def __init__(self, name: ResponseId, tools: message_pb2.ToolUse | None = None) -> None:
        self._items = ItemEvents(name, tools)
        self._sequence = 0

    def begun(self, response: Response) -> Iterator[Event]:
        """The turn is durable."""
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def delta(self, text: str) -> Iterator[Event]:
        """More of the answer."""
        for kind, fields in self._items.feed(text):
            yield self._event(kind, **fields)

    def done(self, response: Response, text: str) -> Iterator[Event]:
        """The answer is durable; what of it was not streamed yet comes as one last delta."""
        for kind, fields in self._items.finish(text, is_cut=response.status == "incomplete"):
            yield self._event(kind, **fields)
        kind = "response.incomplete" if response.status == "incomplete" else "response.completed"
        yield self._event(kind, response=response)

    def failed(self, response: Response, error: ResponseError) -> Iterator[Event]:
        """There is no answer."""
        failed = msgspec.structs.replace(response, status="failed", error=error)
        yield self._event("response.failed", response=failed)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def encode(event: Event) -> bytes:
    """One server-sent event. JSON as msgspec writes it has no line breaks."""
    number, kind = event["sequence_number"], event["type"].encode()
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, kind, msgspec.json.encode(event))
