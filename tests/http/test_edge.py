"""What surrounds the API: models, health, metrics, traces, admission, and a drain that finishes what is open."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.http.server import HttpServer
from services.config import load_settings
from services.lifecycle import State
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

MODEL = "scripted"
PACED = {"scripted_tokens_per_s": 100.0, "scripted_output_tokens": 60}


async def is_refused(mesh: Mesh) -> bool:
    """Whether a newcomer is sent away: in words, or by a closed door."""
    try:
        async with httpx.AsyncClient(base_url=mesh.http_url) as late:
            return (await late.get("/v1/models")).status_code == 503
    except (httpx.NetworkError, httpx.RemoteProtocolError):
        # Also one that the system had let in already, as the door was closed.
        return True


async def test_models_are_those_that_replicas_serve(sdk: AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in sdk.models.list()]
    assert (await sdk.models.retrieve(MODEL)).owned_by == "isthmus"


async def test_metrics_count_requests_turns_and_tokens(sdk: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    made = await sdk.responses.create(model=MODEL, input="hello")
    await http.get("/v1/nowhere")
    assert made.usage is not None
    lines = (await http.get("/metrics")).text.splitlines()
    assert 'isthmus_http_requests_total{method="POST",route="/v1/responses",status="200"} 1.0' in lines
    assert 'isthmus_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in lines
    assert 'isthmus_turns_total{outcome="done"} 1.0' in lines
    assert f'isthmus_tokens_total{{kind="output"}} {float(made.usage.output_tokens)}' in lines
    assert "isthmus_turn_ttft_seconds_count 1.0" in lines


async def test_a_request_goes_on_with_its_callers_trace(http: httpx.AsyncClient) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "mine"}
    answer = await http.get("/v1/models", headers=headers)
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["traceparent"].split("-")[1] == trace
    made = await http.post("/v1/responses", json={"model": MODEL, "input": "hello"}, headers=headers)
    assert made.json()["isthmus"]["receipt"]["trace_id"] == trace


async def test_the_openapi_document_is_made_from_the_shapes(http: httpx.AsyncClient) -> None:
    document = (await http.get("/schema/openapi.json")).json()
    assert {"/v1/responses", "/v1/conversations/{conversation_id}/items", "/v1/models"} <= document["paths"].keys()
    schemas = document["components"]["schemas"]
    assert "previous_response_id" in schemas["CreateResponse"]["properties"]
    answers = document["paths"]["/v1/responses"]["post"]["responses"]
    assert answers["409"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


@pytest.mark.parametrize("bounds", [{"http_requests_count_max": 1}])
@pytest.mark.parametrize("engine", [PACED])
async def test_beyond_its_bound_the_edge_says_when_to_come_again(sdk: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    stream = await sdk.responses.create(model=MODEL, input="hello", stream=True)
    refused = await http.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "500")
    assert (await http.get("/healthz")).status_code == 200
    assert [event async for event in stream][-1].type == "response.completed"

    async def is_open_again() -> bool:
        return (await http.get("/v1/models")).status_code == 200

    await eventually(is_open_again)


@pytest.mark.parametrize("engine", [PACED])
async def test_a_drain_finishes_open_turns_and_takes_no_more(mesh: Mesh, sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(model=MODEL, input="hello", stream=True)
    first = await anext(aiter(stream))
    assert first.type == "response.created"
    draining = asyncio.create_task(mesh.gateway.drain())
    await eventually(lambda: mesh.running["gateway-0"].lifecycle.state is State.DRAINING)
    assert await is_refused(mesh)
    last = [event async for event in stream][-1]
    assert last.type == "response.completed"
    await draining


async def test_an_address_that_is_taken_or_is_none_is_refused_in_words(mesh: Mesh) -> None:
    async def nothing(*_: Any) -> None:
        return

    settings = load_settings()
    with pytest.raises(OSError, match="cannot listen for HTTP"):
        await HttpServer(nothing, mesh.gateway.http_address, settings).start()
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        await HttpServer(nothing, "8000", settings).start()
