"""How long a reply is: as its caller's benchmark wants it, or as the model ends it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


@pytest.fixture
def engine() -> dict[str, Any]:
    return {"scripted_output_tokens": 8}


async def test_a_reply_that_may_not_end_has_all_of_its_tokens(http: httpx.AsyncClient) -> None:
    body = {"model": "scripted", "input": "Go on.", "max_output_tokens": 40, "ignore_eos": True, "stop": None}
    answer = (await http.post("/v1/responses", json=body)).json()
    assert (answer["usage"]["output_tokens"], answer["status"]) == (40, "completed")
    chat: dict[str, Any] = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": 30,
        "ignore_eos": True,
    }
    assert (await http.post("/v1/chat/completions", json=chat)).json()["usage"]["completion_tokens"] == 30
    del chat["ignore_eos"]
    # vLLM's multi-turn benchmark asks for each answer's length so.
    chat |= {"min_tokens": 20}
    assert (await http.post("/v1/chat/completions", json=chat)).json()["usage"]["completion_tokens"] == 20
    wrong = await http.post("/v1/chat/completions", json={**chat, "min_tokens": 31})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "min_tokens")
    ends = (await http.post("/v1/responses", json={**body, "ignore_eos": False})).json()
    assert ends["usage"]["output_tokens"] == 8


async def test_a_response_ends_before_a_stop(http: httpx.AsyncClient) -> None:
    body = {"model": "scripted", "input": "Go on.", "max_output_tokens": 40}
    whole = (await http.post("/v1/responses", json=body)).json()["output"][0]["content"][0]["text"]
    stop = whole.split()[3]
    cut = (await http.post("/v1/responses", json={**body, "stop": stop})).json()["output"][0]["content"][0]["text"]
    assert whole.startswith(cut)
    assert stop not in cut
    wrong = await http.post("/v1/responses", json={**body, "stop": [""]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "stop[0]")


async def test_health_is_where_clients_look_for_it(http: httpx.AsyncClient) -> None:
    assert [(await http.get(path)).status_code for path in ("/health", "/healthz")] == [200, 200]
