"""`background: true` with OpenAI's SDK: 202 at once, polled to its end, cancelled; and told to webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI
from openai.types.responses import Response
from redis.asyncio import Redis
from standardwebhooks import Webhook

from services.config import JobSettings, Settings, WebhookSettings
from services.valkey import Acknowledger, connect
from services.webhooks.endpoint import Endpoint
from services.webhooks.keeper import Keeper
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

MODEL = "scripted"
SLOW = {"scripted_tokens_per_s": 20.0, "scripted_output_tokens": 200}


@pytest.fixture
def hooks() -> dict[str, Any]:
    """Settings of webhooks: the tests' receivers are on this machine."""
    return {"private_allowed": True, "retry_ms_min": 20, "retry_ms_max": 50, "attempts_count_max": 3}


@pytest.fixture
def bounds(hooks: dict[str, Any]) -> dict[str, Any]:
    """The gateway's jobs and webhooks, quick enough for a test."""
    return {"jobs": JobSettings(progress_ms=50), "webhooks": WebhookSettings(**hooks)}


@dataclass
class Receiver:
    """A server that is told of events, and answers each with the next of its statuses, the last one for good."""

    statuses: list[int]
    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
        sent = {name.lower(): value for name, _, value in lines}
        body = await reader.readexactly(int(sent["content-length"]))
        self.got.append((sent, body))
        status = self.statuses[min(len(self.got), len(self.statuses)) - 1]
        writer.write(f"HTTP/1.1 {status} X\r\nlocation: {self.url}/elsewhere\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
def statuses() -> list[int]:
    """What the receiver answers."""
    return [200]


@pytest.fixture
async def receiver(statuses: list[int]) -> AsyncIterator[Receiver]:
    """A receiver on this machine."""
    one = Receiver(statuses)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://localhost:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield one


async def registered(settings: Settings, url: str, *events: str) -> Endpoint:
    """An endpoint, as `isthmus webhooks add` makes it."""
    valkey = connect(settings.valkey)
    acknowledger = Acknowledger(valkey, settings.valkey)
    endpoint = await Keeper(acknowledger, WebhookSettings()).add("local", url, events)
    await acknowledger.aclose()
    await valkey.aclose()
    return endpoint


async def ended(sdk: AsyncOpenAI, made: Response) -> Response:
    """The response once it is over."""

    async def look() -> Response | None:
        found = await sdk.responses.retrieve(made.id)
        return found if found.status not in ("queued", "in_progress") else None

    found = await eventually(look, message="it is over")
    assert found is not None
    return found


async def test_a_background_response_is_queued_and_polled(sdk: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    raw = await http.post("/v1/responses", json={"model": MODEL, "input": "hello", "background": True})
    assert raw.status_code == 202
    assert (raw.json()["status"], raw.json()["background"]) == ("queued", True)
    made = await sdk.responses.create(model=MODEL, input="hello", background=True, metadata={"team": "red"})
    assert made.status == "queued"
    done = await ended(sdk, made)
    assert (done.status, done.background, done.id) == ("completed", True, made.id)
    assert done.output_text
    assert done.metadata == {"team": "red"}
    follow = await sdk.responses.create(model=MODEL, input="more", previous_response_id=made.id, background=True)
    followed = await ended(sdk, follow)
    assert (followed.status, followed.previous_response_id) == ("completed", made.id)
    branch = await sdk.responses.create(model=MODEL, input="else", previous_response_id=made.id, background=True)
    assert branch.id.split("_")[1] != made.id.split("_")[1], "a session of its own"
    branched = await ended(sdk, branch)
    assert (branched.status, branched.previous_response_id) == ("completed", made.id)


async def test_the_same_key_is_the_same_response(sdk: AsyncOpenAI) -> None:
    headers = {"Idempotency-Key": "k1"}
    made = [
        await sdk.responses.create(model=MODEL, input="once", background=True, extra_headers=headers) for _ in range(3)
    ]
    assert len({each.id for each in made}) == 1
    assert (await ended(sdk, made[0])).output_text


async def test_what_runs_in_the_background_can_be_heard_too(sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(model=MODEL, input="tell me", background=True, stream=True)
    first = await anext(aiter(stream))
    assert first.type == "response.created"
    assert first.response.background is True
    await stream.close()
    again = await sdk.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number)
    heard = [event async for event in again]
    assert heard[0].sequence_number == first.sequence_number + 1
    last = heard[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "".join(
        each.delta for each in heard if each.type == "response.output_text.delta"
    )


async def test_what_does_not_go_with_background_is_refused_by_name(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "input": "hello", "background": True, "store": False}
    refused = await http.post("/v1/responses", json=body)
    assert refused.status_code == 400
    assert (refused.json()["error"]["param"], refused.json()["error"]["code"]) == ("store", "unsupported_parameter")


@pytest.mark.parametrize("engine", [SLOW])
async def test_a_running_background_response_is_cancelled_and_erased(
    sdk: AsyncOpenAI, mesh: Mesh, settings: Settings, receiver: Receiver
) -> None:
    endpoint = await registered(settings, f"{receiver.url}/hook")
    made = await sdk.responses.create(model=MODEL, input="talk for long", background=True)
    await eventually(mesh.generating, message="it runs")
    assert (await sdk.responses.retrieve(made.id)).status == "in_progress"
    assert (await sdk.responses.cancel(made.id)).status == "cancelled"
    assert (await sdk.responses.retrieve(made.id)).status == "cancelled"
    await eventually(lambda: not mesh.generating(), message="the replica stops")
    await eventually(lambda: receiver.got, message="the event comes")
    sent, body = receiver.got[0]
    assert Webhook(endpoint.secret).verify(body, sent)["type"] == "response.cancelled"
    await sdk.responses.delete(made.id)
    with pytest.raises(APIStatusError):
        await sdk.responses.retrieve(made.id)


@pytest.mark.parametrize("statuses", [[503, 302, 200]])
async def test_an_event_is_signed_and_tried_again_until_it_is_taken(
    sdk: AsyncOpenAI, settings: Settings, receiver: Receiver
) -> None:
    endpoint = await registered(settings, f"{receiver.url}/hook?a=b", "response.completed")
    await registered(settings, f"{receiver.url}/never", "response.failed")
    made = await sdk.responses.create(model=MODEL, input="hello", background=True)
    await eventually(lambda: len(receiver.got) == 3, message="a refusal, a redirect and a success")
    told = [Webhook(endpoint.secret).verify(body, sent) for sent, body in receiver.got]
    assert {each["id"] for each in told} == {sent["webhook-id"] for sent, _ in receiver.got}
    assert told[0]["id"].startswith("evt_")
    assert (told[0]["object"], told[0]["type"], told[0]["data"]) == ("event", "response.completed", {"id": made.id})
    with pytest.raises(Exception, match="No matching signature"):
        Webhook("whsec_" + "b" * 44).verify(receiver.got[0][1], receiver.got[0][0])


@pytest.mark.parametrize("hooks", [{"retry_ms_min": 10, "retry_ms_max": 10, "attempts_count_max": 2}])
async def test_no_event_goes_to_a_private_address_and_it_is_kept_with_the_reason(
    sdk: AsyncOpenAI, settings: Settings, receiver: Receiver, valkey: Redis
) -> None:
    await registered(settings, f"{receiver.url}/hook")
    await sdk.responses.create(model=MODEL, input="hello", background=True)
    dead = await eventually(lambda: valkey.lrange("isthmus:{webhooks:local}:dead", 0, -1), message="it is given up")
    assert b"is private, loopback" in dead[0]
    assert receiver.got == []
