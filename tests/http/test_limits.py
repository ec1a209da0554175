"""Limits over HTTP: OpenAI's headers and errors, told apart by user and address."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from services.config import CallerLimits, LimitsSettings, Price

MODEL = "scripted"


@pytest.fixture
def bounds() -> dict[str, Any]:
    """Limits that a few requests use up: of the user, who is named, and of the address, which is the proxy's word."""
    limits = LimitsSettings(
        tenant=CallerLimits(budget_monthly_micros=10_000),
        user=CallerLimits(requests_per_minute=2, tokens_per_minute=50_000),
        address=CallerLimits(requests_per_minute=3),
        prices={"*": Price(input_micros=1_000_000, output_micros=1_000_000)},
        proxies_trusted=("127.0.0.1",),
    )
    return {"limits": limits}


def from_address(address: str) -> dict[str, str]:
    """A request that a proxy has passed on."""
    return {"x-forwarded-for": f"6.6.6.6, {address}"}


async def test_the_sdk_is_told_what_is_left_and_when_to_come_again(sdk: AsyncOpenAI) -> None:
    async def ask(number: int, **asked: Any) -> Any:
        headers = from_address(f"10.0.0.{number}")
        return await sdk.responses.with_raw_response.create(model=MODEL, input="hello", extra_headers=headers, **asked)

    first = await ask(1, safety_identifier="ann")
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] in ("29.999s", "30s")
    assert first.headers["x-ratelimit-limit-tokens"] == "50000"
    assert first.parse().isthmus["receipt"]["cost"]["currency"] == "USD"
    await ask(2, user="ann")
    with pytest.raises(openai.RateLimitError, match=r"users/ann: requests per minute: 0 of 2 are left") as caught:
        await ask(3, user="ann")
    error, headers = caught.value, caught.value.response.headers
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(headers["retry-after"]) <= 30
    assert 0 < int(headers["retry-after-ms"]) <= 30_000
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert (await ask(4, user="bob")).headers["x-ratelimit-remaining-requests"] == "1"


async def test_streams_chats_and_embeddings_count_alike(sdk: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "user": "ann", "extra_headers": from_address("10.0.0.1")}
    stream = await sdk.responses.with_raw_response.create(input="hello", stream=True, **asked)
    assert stream.headers["x-ratelimit-remaining-requests"] == "1"
    assert [event.type async for event in stream.parse()][-1] == "response.completed"
    messages: Any = [{"role": "user", "content": "hello"}]
    chat = await sdk.chat.completions.with_raw_response.create(messages=messages, **asked)
    assert chat.headers["x-ratelimit-remaining-requests"] == "0"
    for create, what in (
        (sdk.embeddings.create, {"input": "a river"}),
        (sdk.chat.completions.create, {"messages": messages}),
    ):
        with pytest.raises(openai.RateLimitError, match="users/ann"):
            await create(**what, **asked)
    asked["user"] = "bob"
    vectors = await sdk.embeddings.with_raw_response.create(input="a river", **asked)
    # The third of the address.
    assert vectors.headers["x-ratelimit-remaining-requests"] == "0"


async def test_reads_count_by_the_address_that_the_proxy_names(http: httpx.AsyncClient) -> None:
    for left in ("2", "1", "0"):
        answer = await http.get("/v1/models", headers=from_address("10.0.0.1"))
        assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, left)
    refused = await http.get("/v1/models", headers=from_address("10.0.0.1"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    # Known to have none left: refused before its body is looked at.
    refused = await http.post("/v1/responses", content=b"no json", headers=from_address("10.0.0.1"))
    assert refused.status_code == 429
    assert (await http.get("/v1/models", headers=from_address("10.0.0.2"))).status_code == 200
    assert (await http.get("/healthz", headers=from_address("10.0.0.1"))).status_code == 200


async def test_a_budget_that_does_not_pay_is_an_insufficient_quota(http: httpx.AsyncClient) -> None:
    # Some 13,000 tokens, at a currency's unit for a million of them.
    asked = {"model": MODEL, "input": "word " * 10_000, "user": "ann"}
    answer = await http.post("/v1/responses", json=asked, headers=from_address("10.0.0.1"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")
    assert "tenants/local: budget of the month: 0.00 of 0.01 spent, this is some 0.0125" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    asked["input"] = "hello"
    assert (await http.post("/v1/responses", json=asked, headers=from_address("10.0.0.1"))).status_code == 200


async def test_a_user_whose_name_is_too_long_is_named(http: httpx.AsyncClient) -> None:
    for path, body, param in (
        ("/v1/responses", {"input": "hello", "user": "u" * 257}, "user"),
        ("/v1/responses", {"input": "hello", "safety_identifier": "ü" * 129}, "safety_identifier"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "user": "u" * 257}, "user"),
    ):
        answer = await http.post(path, json=body, headers=from_address(f"10.0.2.{len(param)}"))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
