"""The model server behind every peer of the benchmark: OpenAI-shaped, and it answers at once, or after a set delay.

It stands for an inference server in a measurement of what lies in front of one, so it generates nothing: a chat
completion is a fixed reply. It reads the request's body and drops it without parsing, which favours the peers.
`GET /last` says what the last completion cost it: its own time, and the bytes that reached it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Final, cast

import httptools
import uvloop

MODEL: Final = "stub"
REPLY: Final = "The answer was given above, in a few words."
_COMPLETION: Final = {
    "id": "chatcmpl-stub",
    "object": "chat.completion",
    "created": 0,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": REPLY}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 0, "completion_tokens": 10, "total_tokens": 10},
}
_MODELS: Final = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "isthmus"}]}


class Last:
    """The completion that was answered last, over all connections."""

    def __init__(self) -> None:
        self.own_ms = 0.0
        self.request_bytes = 0


class Connection(asyncio.Protocol):
    """One client's requests, one after the other."""

    def __init__(self, last: Last, delay_s: float) -> None:
        self._last = last
        self._delay_s = delay_s
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._path = b""
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop; what is no HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            assert self._transport is not None
            self._transport.close()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._path, self._body_bytes = b"", 0

    def on_url(self, url: bytes) -> None:
        """Called by the parser, perhaps with a piece of it."""
        self._path += url

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a piece of the body."""
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """Called by the parser at the request's last byte."""
        started = time.perf_counter()
        if self._path != b"/v1/chat/completions":
            self._answer(self._about())
        elif self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._complete, started, self._body_bytes)
        else:
            self._complete(started, self._body_bytes)

    def _complete(self, started: float, request_bytes: int) -> None:
        self._answer(_COMPLETION)
        self._last.own_ms = (time.perf_counter() - started) * 1_000
        self._last.request_bytes = request_bytes

    def _about(self) -> object:
        if self._path == b"/last":
            return {"own_ms": self._last.own_ms, "request_bytes": self._last.request_bytes}
        return _MODELS

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        assert self._transport is not None
        self._transport.write(head.encode() + body)


async def _serve(port: int, delay_s: float) -> None:
    last = Last()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(last, delay_s), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.delay_ms / 1_000))


if __name__ == "__main__":
    main()
