"""A test event: asked for by the command line, delivered once by a gateway, whose answer is left for who asked."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

import msgspec
from docket import Docket

from services.valkey import Client, command
from services.webhooks.endpoint import TEST_EVENT

DELIVER: Final = "deliver_webhook"
_KEPT_MS: Final = 60_000
_POLL_S: Final = 0.1


class Answer(msgspec.Struct, frozen=True):
    """What the endpoint answered; `problem` is empty where it took the event."""

    problem: str = ""
    status: int = 0


async def deliver_webhook(tenant: str, endpoint: str, event: str, kind: str, body: bytes) -> None:
    """Delivers an event. Gateways register the one that works."""
    raise RuntimeError(f"{DELIVER} runs in a gateway; here it is only declared")


async def ask(queue: Docket, valkey: Client, tenant: str, endpoint: str, seconds_max: float) -> Answer | None:
    """Has a gateway deliver a test event; None where no gateway has by then. Raises redis' errors."""
    event = f"evt_{secrets.token_hex(16)}"
    body = {
        "id": event,
        "object": "event",
        "created_at": int(time.time()),
        "type": TEST_EVENT,
        "data": {"id": endpoint},
    }
    if DELIVER not in queue.tasks:
        queue.register(deliver_webhook)
    await queue.add(DELIVER, key=event)(tenant, endpoint, event, TEST_EVENT, msgspec.json.encode(body))
    until = time.monotonic() + seconds_max
    while time.monotonic() < until:
        stored = await command(valkey, "GET", _key(tenant, event))
        if stored is not None:
            return msgspec.json.decode(stored, type=Answer)
        await asyncio.sleep(_POLL_S)
    await queue.cancel(event)
    return None


async def leave(valkey: Client, tenant: str, event: str, answer: Answer) -> None:
    """Leaves the answer to a test event for a minute. Raises redis' errors."""
    await command(valkey, "SET", _key(tenant, event), msgspec.json.encode(answer), "PX", _KEPT_MS)


def _key(tenant: str, event: str) -> str:
    return f"isthmus:{{webhooks:{tenant}}}:test:{event}"
