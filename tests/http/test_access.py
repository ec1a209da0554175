"""API keys at the HTTP edge: the official SDK with keys that are right, wrong, expired and revoked."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from gateway.access import needs
from services.access import ApiKey, Scope
from services.config import AccessSettings, Settings
from tests.support.api_keys import expired_key, new_key, revoked_key
from tests.support.mesh import Mesh

MODEL = "scripted"


@pytest.fixture
def bounds() -> dict[str, Any]:
    """Keys are wanted."""
    return {"access": AccessSettings(mode="keys", cache_ms_max=50)}


def sdk_with(mesh: Mesh, key: str) -> AsyncOpenAI:
    """The SDK as anybody has it, with a key."""
    return AsyncOpenAI(base_url=f"{mesh.http_url}/v1", api_key=key, max_retries=0)


async def test_the_sdk_works_with_a_key_alone(mesh: Mesh, settings: Settings) -> None:
    async with sdk_with(mesh, await new_key(settings)) as sdk:
        made = await sdk.responses.create(model=MODEL, input="hello")
        assert made.output_text
        assert (await sdk.responses.retrieve(made.id)).id == made.id
        events = [event async for event in await sdk.responses.create(model=MODEL, input="hello", stream=True)]
        assert events[-1].type == "response.completed"
        conversation = await sdk.conversations.create()
        assert (await sdk.conversations.delete(conversation.id)).deleted
        assert MODEL in [model.id async for model in sdk.models.list()]


async def test_the_sdk_is_told_why_its_key_opens_nothing(mesh: Mesh, settings: Settings) -> None:
    good = await new_key(settings)
    told = {
        "it does not begin with isk-": "none",
        "its checksum does not fit": good[:-1] + ("a" if good[-1] != "a" else "b"),
        "not one of this mesh's": ApiKey(good[4:16], "a" * 32).text,
        "expired at": await expired_key(settings),
        "was revoked at": await revoked_key(settings),
    }
    for said, key in told.items():
        async with sdk_with(mesh, key) as sdk:
            with pytest.raises(openai.AuthenticationError, match=said) as caught:
                await sdk.responses.create(model=MODEL, input="hello")
        assert caught.value.status_code == 401
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
        assert caught.value.response.headers["www-authenticate"] == "Bearer"


async def test_the_sdk_is_told_which_scope_its_key_lacks(mesh: Mesh, settings: Settings) -> None:
    async with sdk_with(mesh, await new_key(settings, scopes=[Scope.TURNS])) as sdk:
        made = await sdk.responses.create(model=MODEL, input="hello")
        assert MODEL in [model.id async for model in sdk.models.list()]
        with pytest.raises(openai.PermissionDeniedError, match=r"needs the scope sessions\.write") as caught:
            await sdk.responses.delete(made.id)
        assert (caught.value.code, caught.value.type) == ("permission_denied", "permission_error")
        with pytest.raises(openai.PermissionDeniedError, match=r"needs the scope sessions\.read"):
            await sdk.responses.retrieve(made.id)


async def test_two_tenants_with_the_same_conversation_see_their_own(mesh: Mesh, settings: Settings) -> None:
    headers = {"Idempotency-Key": "the same"}
    async with (
        sdk_with(mesh, await new_key(settings, "one")) as one,
        sdk_with(mesh, await new_key(settings, "other")) as other,
    ):
        first = await one.responses.create(model=MODEL, input="one speaks", extra_headers=headers)
        second = await other.responses.create(model=MODEL, input="the other speaks", extra_headers=headers)
        with pytest.raises(openai.NotFoundError) as hidden:
            await other.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError) as unknown:
            await other.responses.retrieve("resp_nobody_1")
        assert str(hidden.value).replace(first.id, "X") == str(unknown.value).replace("resp_nobody_1", "X")
        with pytest.raises(openai.NotFoundError):
            await other.responses.create(model=MODEL, input="go on", previous_response_id=first.id)
        with pytest.raises(openai.NotFoundError):
            await other.conversations.retrieve(f"conv_{first.id.split('_')[1]}")
        for sdk, made, said in ((one, first, "one speaks"), (other, second, "the other speaks")):
            items = [item async for item in sdk.responses.input_items.list(made.id)]
            assert said in str(items)


async def test_what_probes_and_generators_ask_needs_no_key(http: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/metrics", "/schema/openapi.json"):
        assert (await http.get(path)).status_code == 200, path


async def test_whatever_else_is_served_needs_one(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/schema/openapi.json")).json()["paths"]
    served = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    asked = [each for each in served if not needs.is_open(each[1])]
    for method, template in asked:
        answer = await http.request(method, template.replace("{", "").replace("}", ""))
        assert answer.status_code == 401, (method, template)
        assert answer.json()["error"]["code"] == "invalid_api_key"
    # The table has them all, and nothing that is not served.
    assert sorted(f"{method} {path}" for method, path in asked) == sorted(
        route for row in needs.TABLE for route in row.routes
    )


async def test_no_body_is_read_of_who_is_not_let_in(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/responses", content=b"no json")
    assert answer.status_code == 401
    assert (await http.get("/v1/nowhere")).status_code == 404


async def test_two_credentials_are_none(http: httpx.AsyncClient, settings: Settings) -> None:
    key = await new_key(settings)
    shown = [("authorization", f"Bearer {key}")] * 2
    answer = await http.get("/v1/models", headers=shown)
    assert answer.status_code == 401
    assert (await http.get("/v1/models", headers=shown[:1])).status_code == 200


async def test_what_a_path_takes_is_told_to_any_key(http: httpx.AsyncClient, settings: Settings) -> None:
    assert (await http.options("/v1/responses")).status_code == 401
    headers = {"authorization": f"Bearer {await new_key(settings, scopes=[Scope.TURNS])}"}
    answer = await http.options("/v1/responses", headers=headers)
    assert (answer.status_code, "POST" in answer.headers["allow"]) == (204, True)
