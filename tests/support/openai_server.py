"""A server of OpenAI's shape that answers what a test puts into it."""

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

MODELS = [{"id": "big", "max_model_len": 4_096}, {"id": "tuned", "parent": "big"}, {"id": "other"}]
DONE = "[DONE]"


@dataclass
class OpenAIServer:
    """Answers what a test puts in `status`, `events`; keeps what it was sent. `hangs` leaves the stream open."""

    status: int = 200
    events: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    cuts: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.keys.append(headers.get("authorization", ""))
        if scope["path"] == "/v1/models":
            await self._say(send, 200, json.dumps({"data": MODELS}).encode())
            return
        self.bodies.append(json.loads(body))
        if self.status != 200:
            await self._say(send, self.status, b'{"error": {"message": "not so"}}')
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for event in self.events:
            text = event if isinstance(event, str) else json.dumps(event)
            await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
        if self.hangs:
            while (await receive())["type"] != "http.disconnect":
                continue
            self.left.set()
        if self.cuts:
            raise ConnectionAbortedError
        await send({"type": "http.response.body", "body": b""})

    async def _say(self, send: Callable[..., Any], status: int, body: bytes) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def choice(**fields: Any) -> dict[str, Any]:
    """An event of a stream with one choice."""
    return {"choices": [{"index": 0, "text": "", "finish_reason": None, **fields}]}


@asynccontextmanager
async def openai_server() -> AsyncIterator[OpenAIServer]:
    """One that listens on `port`."""
    app = OpenAIServer(port=free_port())
    serving = uvicorn.Server(uvicorn.Config(app, port=app.port, log_level="critical", lifespan="off"))
    task = asyncio.create_task(serving.serve())
    await eventually(lambda: serving.started, message="the server listens")
    yield app
    serving.should_exit = serving.force_exit = True
    await task
