"""A streamed response that is cut and read on: byte for byte the one that was not cut."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.support.mesh import Mesh

CONTINUE = {"Isthmus-On-Disconnect": "continue"}
BODY = {"model": "scripted", "input": "Tell me all of it.", "instructions": "Be long.", "stream": True, "user": "u1"}
CUTS = 20


@pytest.fixture
def engine() -> dict[str, Any]:
    """Replies of 60 tokens in about 1.5 s."""
    return {"scripted_output_tokens": 60, "scripted_tokens_per_s": 40.0}


def blocks(data: bytes) -> list[bytes]:
    """The whole events in what was read."""
    return [block + b"\n\n" for block in data.split(b"\n\n")[:-1]]


def number(block: bytes) -> int:
    """The id of an event."""
    return int(block.split(b"\n", 1)[0].removeprefix(b"id: "))


async def read(http: httpx.AsyncClient, path: str, events: int, headers: dict[str, str] | None = None) -> list[bytes]:
    """At least so many events of a response's stream, unless it ends before; then the line is cut."""
    data = b""
    async with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for chunk in answer.aiter_raw():
            data += chunk
            if len(blocks(data)) >= events:
                break
    return blocks(data)


async def test_a_response_cut_at_random_places_is_byte_equal_to_the_uncut_one(http: httpx.AsyncClient) -> None:
    chance = random.Random(3)
    data = b""
    async with http.stream("POST", "/v1/responses", json=BODY, headers=CONTINUE) as answer:
        async for chunk in answer.aiter_raw():
            data += chunk
            if len(blocks(data)) > 5:
                break
    heard = blocks(data)
    response = httpx.Response(200, content=heard[0].split(b"data: ", 1)[1]).json()["response"]["id"]
    path = f"/v1/responses/{response}?stream=true"
    uncut = asyncio.create_task(read(http, path, 10_000))
    for cut in range(CUTS):
        last = number(heard[-1])
        if cut % 2:
            heard += await read(http, path, chance.randint(1, 3), {"Last-Event-ID": str(last)})
        else:
            heard += await read(http, f"{path}&starting_after={last}", chance.randint(1, 3))
    heard += await read(http, f"{path}&starting_after={number(heard[-1])}", 10_000)
    assert heard == await uncut
    assert heard == await read(http, path, 10_000), "a response that is done is told in the same way"
    assert b"event: response.completed" in heard[-1]


async def test_the_sdk_reads_a_response_on(sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(
        model="scripted", input="Tell me all of it.", stream=True, extra_headers=CONTINUE
    )
    text, last, response = "", -1, ""
    async for event in stream:
        last = event.sequence_number
        if event.type == "response.created":
            response = event.response.id
        if event.type == "response.output_text.delta":
            text += event.delta
            break
    await stream.close()
    async for event in await sdk.responses.retrieve(response, stream=True, starting_after=last):
        assert event.sequence_number == last + 1
        last = event.sequence_number
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert (await sdk.responses.retrieve(response)).output_text == text != ""


@pytest.mark.parametrize(
    ("path", "headers", "name"),
    [
        ("?starting_after=3", {}, "starting_after"),
        ("?stream=true&starting_after=x", {}, "starting_after"),
        ("?stream=true", {"Last-Event-ID": "soon"}, "Last-Event-ID"),
    ],
)
async def test_where_to_go_on_must_be_a_number_of_an_event(
    http: httpx.AsyncClient, path: str, headers: dict[str, str], name: str
) -> None:
    made = await http.post("/v1/responses", json={**BODY, "stream": False})
    answer = await http.get(f"/v1/responses/{made.json()['id']}{path}", headers=headers)
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


async def test_a_response_of_nobody_cannot_be_read(http: httpx.AsyncClient, mesh: Mesh) -> None:
    answer = await http.get("/v1/responses/resp_none_1?stream=true")
    assert answer.status_code == 404
    wrong = await http.post("/v1/responses", json=BODY, headers={"Isthmus-On-Disconnect": "maybe"})
    assert wrong.status_code == 400
    assert "Isthmus-On-Disconnect" in wrong.json()["error"]["message"]
