"""The events of a streamed response, in the order that OpenAI's Responses API promises. Pure.

created → in_progress → [output_item.added → content_part.added] → output_text.delta… → output_text.done →
content_part.done → output_item.done → completed or incomplete; `failed` may come anywhere after in_progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.http.ids import ResponseId
from gateway.http.objects import OutputText, Response, ResponseError
from gateway.http.render import reply, reply_id

Event = dict[str, Any]


class ResponseEvents:
    """Numbers the events of one response from 0 on, and opens its one output item when there is text, or at the end."""

    def __init__(self, name: ResponseId) -> None:
        self._name = name
        self._sequence = 0
        self._sent: list[str] = []
        self._is_item_open = False

    def begun(self, response: Response) -> Iterator[Event]:
        """The turn is durable."""
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def delta(self, text: str) -> Iterator[Event]:
        """More of the answer."""
        if not text:
            return
        yield from self._open_item()
        self._sent.append(text)
        yield self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def done(self, response: Response, text: str) -> Iterator[Event]:
        """The answer is durable; what of it was not streamed yet comes as one last delta."""
        yield from self._open_item()
        sent = "".join(self._sent)
        if text.startswith(sent):
            yield from self.delta(text[len(sent) :])
        yield self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place(), part=OutputText(text))
        yield self._event("response.output_item.done", output_index=0, item=response.output[0])
        kind = "response.incomplete" if response.status == "incomplete" else "response.completed"
        yield self._event(kind, response=response)

    def failed(self, response: Response, error: ResponseError) -> Iterator[Event]:
        """There is no answer."""
        failed = msgspec.structs.replace(response, status="failed", error=error)
        yield self._event("response.failed", response=failed)

    def _open_item(self) -> Iterator[Event]:
        if self._is_item_open:
            return
        self._is_item_open = True
        item = msgspec.structs.replace(reply(self._name, "", "in_progress"), content=[])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place(), part=OutputText(""))

    def _place(self) -> dict[str, Any]:
        return {"item_id": str(reply_id(self._name)), "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def encode(event: Event) -> bytes:
    """One server-sent event. JSON as msgspec writes it has no line breaks."""
    number, kind = event["sequence_number"], event["type"].encode()
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, kind, msgspec.json.encode(event))
