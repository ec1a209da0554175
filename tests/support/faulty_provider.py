"""A provider of OpenAI's and Anthropic's shape that says one text, and does it as badly as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from tests.support.eventually import eventually
from tests.support.ports import free_port

TEXT = "One provider may fail in the middle of what it says, and another one goes on from there to the very end."


@dataclass
class FaultyProvider:
    """Says `TEXT` word by word, or what is left of it behind the beginning that it was given.

    `status` other than 200 is answered with `headers`; `delay_s` passes before the first word; after `words` of them
    the connection breaks, or with `hangs` nothing else comes.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    words: int | None = None
    hangs: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    left: int = 0
    port: int = 0

    @property
    def calls(self) -> int:
        """Requests for a reply."""
        return len(self.bodies)

    def well(self) -> None:
        """From now on it does as it should."""
        self.status, self.headers, self.delay_s, self.words, self.hangs = 200, {}, 0.0, None, False

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/v1/models":
            await self._say(send, 200, {"data": [{"id": "big", "max_model_len": 65_536}]})
            return
        body = json.loads(await _body(receive))
        self.bodies.append(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.keys.append(headers.get("x-api-key") or headers.get("authorization", ""))
        if self.status != 200:
            await self._say(send, self.status, {"error": {"type": "any", "message": "not now"}})
            return
        gone = asyncio.create_task(_gone(receive))
        try:
            await self._stream(scope["path"], body, send, gone)
        finally:
            gone.cancel()

    async def _stream(
        self, path: str, body: dict[str, Any], send: Callable[..., Any], gone: asyncio.Task[None]
    ) -> None:
        is_anthropic = path == "/v1/messages"
        await send({"type": "http.response.start", "status": 200, "headers": self._headers()})
        begin, end = (_anthropic_begin(), _anthropic_end()) if is_anthropic else ([], _openai_end())
        for event in begin:
            await _event(send, event)
        if await self._waited(self.delay_s, gone):
            return
        words = _rest(body).split(" ")
        for number, word in enumerate(words):
            if number == self.words:
                if self.hangs and await self._waited(60.0, gone):
                    return
                raise ConnectionAbortedError
            text = word if number == 0 else f" {word}"
            await _event(send, _anthropic_delta(text) if is_anthropic else _openai_delta(text))
        for event in end:
            await _event(send, event)
        await send({"type": "http.response.body", "body": b""})

    async def _waited(self, seconds: float, gone: asyncio.Task[None]) -> bool:
        """Whether the caller went away meanwhile."""
        await asyncio.wait({gone}, timeout=seconds)
        self.left += gone.done()
        return gone.done()

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.headers.items()]

    async def _say(self, send: Callable[..., Any], status: int, document: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": self._headers()})
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})


async def _body(receive: Callable[..., Any]) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            break
    return body


async def _gone(receive: Callable[..., Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _event(send: Callable[..., Any], event: dict[str, Any]) -> None:
    name = f"event: {event['type']}\n" if "type" in event else ""
    await send(
        {"type": "http.response.body", "body": f"{name}data: {json.dumps(event)}\n\n".encode(), "more_body": True}
    )


def _rest(body: dict[str, Any]) -> str:
    """What is left of the text behind the last message, if that is the assistant's."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return TEXT
    said = last["content"] if isinstance(last["content"], str) else "".join(each["text"] for each in last["content"])
    assert TEXT.startswith(said), said
    return TEXT[len(said) :]


def _openai_delta(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def _openai_end() -> list[dict[str, Any]]:
    return [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 30, "prompt_tokens_details": {"cached_tokens": 10}}},
    ]


def _anthropic_begin() -> list[dict[str, Any]]:
    usage = {"input_tokens": 20, "cache_read_input_tokens": 10, "output_tokens": 1}
    return [
        {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [], "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]


def _anthropic_delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def _anthropic_end() -> list[dict[str, Any]]:
    return [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 21}},
        {"type": "message_stop"},
    ]


@asynccontextmanager
async def faulty_provider() -> AsyncIterator[FaultyProvider]:
    """One that listens on `port`."""
    app = FaultyProvider(port=free_port())
    serving = uvicorn.Server(uvicorn.Config(app, port=app.port, log_level="critical", lifespan="off"))
    task = asyncio.create_task(serving.serve())
    await eventually(lambda: serving.started, message="the provider listens")
    yield app
    serving.should_exit = serving.force_exit = True
    await task
