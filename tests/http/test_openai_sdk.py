"""OpenAI's SDK over the whole edge, as its own examples have it: functions, forms, conversations, chats, models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from isthmus.session.v1 import session_pb2, session_service_pb2
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, pydantic_function_tool
from pydantic import BaseModel

from gateway.tools.listing import HEADING
from tests.gateway.client import Client, connected
from tests.http.chats import MODEL, log_of
from tests.support.mesh import Mesh


class Step(BaseModel):
    explanation: str
    output: str


class MathReasoning(BaseModel):
    steps: list[Step]
    final_answer: str
    confidence: float | None


class Part(BaseModel):
    """A value with values of its own kind, as a user interface has."""

    label: str
    children: list[Part]


class GetWeather(BaseModel):
    """Determine the weather at a place."""

    location: str
    days: int


WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Determine the weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
        "additionalProperties": False,
    },
}
TIME: dict[str, Any] = {"type": "function", "name": "get_time"}
CHAT_WEATHER: Any = {"type": "function", "function": {key: each for key, each in WEATHER.items() if key != "type"}}
ARGUMENTS = {"location": "text"}


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    """The gRPC edge, to look behind."""
    async with connected(mesh.grpc_target) as connection:
        yield connection


def listings(log: list[Any]) -> int:
    """How often the log tells of functions."""
    return sum(each.text.startswith(HEADING) and each.pinned for each in log)


async def refused(call: Any) -> tuple[str | None, str | None]:
    with pytest.raises(BadRequestError) as caught:
        await call
    return caught.value.code, caught.value.param


async def test_a_response_is_parsed_into_a_model(sdk: AsyncOpenAI) -> None:
    tree = await sdk.responses.parse(model=MODEL, input="A form.", text_format=Part)
    assert isinstance(tree.output_parsed, Part)
    made = await sdk.responses.parse(model=MODEL, input="solve 8x + 31 = 2", text_format=MathReasoning)
    assert isinstance(made.output_parsed, MathReasoning)
    assert made.text is not None
    assert made.text.format is not None
    assert (made.text.format.type, made.status) == ("json_schema", "completed")
    again = await sdk.responses.retrieve(made.id)
    assert again.output_text == made.output_text
    async with sdk.responses.stream(model=MODEL, input="and 2x = 4?", text_format=MathReasoning) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, MathReasoning)
    assert kinds[-1] == "response.completed"
    anything = await sdk.responses.create(model=MODEL, input="JSON, please", text={"format": {"type": "json_object"}})
    assert json.loads(anything.output_text) == {}
    cut = await sdk.responses.create(
        model=MODEL, input="JSON, please", text={"format": {"type": "json_object"}}, max_output_tokens=1
    )
    assert cut.status in ("completed", "incomplete")


async def test_what_a_form_cannot_be_is_refused_by_its_place(sdk: AsyncOpenAI) -> None:
    def asked(**form: Any) -> Any:
        text: Any = {"format": form}
        return sdk.responses.create(model=MODEL, input="x", text=text)

    lax = {"type": "object", "properties": {"a": {"type": "string"}}}
    place = ("invalid_field", "text.format.schema")
    assert await refused(asked(type="json_schema", name="n", schema=lax, strict=True)) == place
    assert await refused(asked(type="json_schema", name="n", schema={"type": "nothing"})) == place
    assert await refused(asked(type="json_schema", schema=lax)) == ("missing_required_parameter", "text.format.name")
    assert await refused(asked(type="grammar")) == ("unsupported_parameter", "text.format.type")


async def test_a_function_is_called_and_its_output_goes_on(sdk: AsyncOpenAI, client: Client) -> None:
    asked: Any = {"model": MODEL, "tools": [WEATHER, TIME]}
    first = await sdk.responses.create(**asked, input="What is the weather in Paris?", tool_choice="required")
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", ARGUMENTS, "completed")
    assert [tool.type for tool in first.tools] == ["function", "function"]
    assert (first.tool_choice, first.output_text, first.parallel_tool_calls) == ("required", "", True)

    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": '{"celsius": 21}'}
    second = await sdk.responses.create(**asked, input=[output], previous_response_id=first.id)
    assert second.output_text
    session = first.id.split("_")[1]
    assert listings(await log_of(client, session)) == 1

    items = [item async for item in sdk.responses.input_items.list(second.id, order="asc")]
    assert [(item.type, getattr(item, "call_id", "")) for item in items] == [("function_call_output", call.call_id)]
    kept = [item async for item in sdk.conversations.items.list(f"conv_{session}", order="asc", limit=1)]
    assert [item.type for item in kept] == ["message", "message", "function_call", "function_call_output", "message"]
    backwards = [item.id async for item in sdk.conversations.items.list(f"conv_{session}", order="desc", limit=1)]
    assert backwards == [item.id for item in reversed(kept)]
    found: Any = await sdk.conversations.items.retrieve(str(call.id), conversation_id=f"conv_{session}")
    assert (found.type, found.call_id) == ("function_call", call.call_id)

    # Other functions are told of; and all of it without a session, as an agent does that keeps its own history.
    third = await sdk.responses.create(
        **{**asked, "tools": [TIME]}, input="And the time?", previous_response_id=second.id, tool_choice="none"
    )
    assert (third.output[0].type, third.tool_choice) == ("message", "none")
    assert listings(await log_of(client, session)) == 2
    history: Any = [{"role": "user", "content": "weather?"}, *first.output, output]
    assert (await sdk.responses.create(**asked, input=history)).output_text
    assert await refused(sdk.responses.create(**asked, input=[output])) == ("invalid_field", "input")


async def test_a_deleted_response_leaves_its_functions_to_the_turns_after_it(sdk: AsyncOpenAI, client: Client) -> None:
    asked: Any = {"model": MODEL, "tools": [WEATHER]}
    first = await sdk.responses.create(**asked, input="One.")
    second = await sdk.responses.create(**asked, input="Two.", previous_response_id=first.id)
    await sdk.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        await sdk.responses.retrieve(first.id)
    log = [each for each in await log_of(client, first.id.split("_")[1]) if each.text]
    assert listings(log) == 1
    assert [each.turn for each in log] == [1, 2, 2]
    assert (await sdk.responses.retrieve(second.id)).output_text


async def test_a_stream_of_calls_is_read_again_byte_for_byte(http: httpx.AsyncClient) -> None:
    asked = {"model": MODEL, "tools": [WEATHER], "tool_choice": "required", "input": "Paris?", "stream": True}
    first = (await http.post("/v1/responses", json=asked)).text
    created = json.loads(first.split("data: ", 1)[1].split("\n", 1)[0])
    again = (await http.get(f"/v1/responses/{created['response']['id']}", params={"stream": "true"})).text
    assert again == first
    assert "response.function_call_arguments.done" in again


async def test_a_named_function_is_called_in_a_stream_and_in_a_conversation(sdk: AsyncOpenAI, client: Client) -> None:
    conversation = await sdk.conversations.create()
    asked: Any = {"model": MODEL, "tools": [WEATHER, TIME], "conversation": conversation.id}
    choice: Any = {"type": "function", "name": "get_time"}
    headers = {"Idempotency-Key": "once"}
    stream = await sdk.responses.create(
        **asked, input="What time is it?", tool_choice=choice, stream=True, extra_headers=headers
    )
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-3:] == ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    assert set(kinds[3:-3]) == {"response.function_call_arguments.delta"}
    deltas: list[Any] = [event for event in events if event.type == "response.function_call_arguments.delta"]
    last: Any = events[-1]
    assert "".join(event.delta for event in deltas) == last.response.output[0].arguments == "{}"
    assert last.response.tool_choice.name == "get_time"
    # A retry finds the turn, though the conversation has been told of the functions since.
    again = await sdk.responses.create(**asked, input="What time is it?", tool_choice=choice, extra_headers=headers)
    assert again.id == last.response.id
    assert listings(await log_of(client, conversation.id.removeprefix("conv_"))) == 1
    items: Any = [{"type": "function_call_output", "call_id": again.output[0].call_id, "output": ""}]
    added = await sdk.conversations.items.create(conversation.id, items=items)
    assert added.data[0].type == "function_call_output"
    assert (await sdk.responses.create(**asked, input="Well?")).output_text
    assert listings(await log_of(client, conversation.id.removeprefix("conv_"))) == 1


async def test_a_chat_calls_and_is_recognised_when_it_is_sent_again(sdk: AsyncOpenAI, client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: Any = {"model": MODEL, "tools": [CHAT_WEATHER]}
    first = await sdk.chat.completions.create(**asked, messages=messages, tool_choice="required")
    choice = first.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", ARGUMENTS)

    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    second = await sdk.chat.completions.create(**asked, messages=messages)
    assert second.id.split("_") == [first.id.split("_")[0], "2"], "the same session, its next turn"
    messages += [second.choices[0].message, {"role": "user", "content": "Once more."}]

    begun: Any = await sdk.chat.completions.create(**asked, messages=messages, tool_choice="required", stream=True)
    chunks = [chunk async for chunk in begun]
    assert chunks[0].id.split("_") == [first.id.split("_")[0], "3"]
    deltas = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert {each.index for each in deltas} == {0}
    assert (deltas[0].id, deltas[0].function.name) == (
        f"call_{first.id.split('-', 1)[1].split('_')[0]}_3_0",
        "get_weather",
    )
    assert json.loads("".join(each.function.arguments or "" for each in deltas)) == ARGUMENTS
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert listings(await log_of(client, first.id.removeprefix("chatcmpl-").split("_")[0])) == 1
    # Another answer to the same beginning goes on in a fork of it.
    messages[-1] = {"role": "user", "content": "Or not."}
    fork = await sdk.chat.completions.create(**asked, messages=messages)
    assert fork.id.split("_")[1] == "3"
    assert fork.id.split("_")[0] != first.id.split("_")[0]


async def test_a_chat_is_parsed_into_models(sdk: AsyncOpenAI) -> None:
    made = await sdk.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "solve 8x + 31 = 2"}], response_format=MathReasoning
    )
    assert isinstance(made.choices[0].message.parsed, MathReasoning)
    tool: Any = pydantic_function_tool(GetWeather)
    called = await sdk.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Paris?"}],
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    assert called.choices[0].message.tool_calls
    (call,) = called.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)


async def test_a_reply_that_has_not_its_form_is_an_error(
    mesh: Mesh, sdk: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engines.scripted.scripted_form", lambda *_: "no JSON at all")
    with pytest.raises(APIStatusError) as caught:
        await sdk.responses.parse(model=MODEL, input="solve", text_format=MathReasoning)
    assert (caught.value.status_code, caught.value.code) == (500, "output_invalid")
    stream = await sdk.responses.create(
        model=MODEL, input="solve", stream=True, text={"format": {"type": "json_object"}}
    )
    last: Any = [event async for event in stream][-1]
    assert (last.type, last.response.error.code) == ("response.failed", "output_invalid")


async def test_a_session_that_is_too_long_fails_where_truncation_is_disabled(sdk: AsyncOpenAI, client: Client) -> None:
    conversation = await sdk.conversations.create()
    words = "a word and another " * 1_000
    asked: Any = {"model": MODEL, "conversation": conversation.id}
    short = await sdk.responses.create(**asked, input=words, truncation="disabled")
    assert short.truncation == "disabled"
    narrow = session_pb2.Session(name=f"sessions/{conversation.id.removeprefix('conv_')}", window_tokens_max=8_000)
    changed = session_service_pb2.UpdateSessionRequest(session=narrow)
    changed.update_mask.paths.append("window_tokens_max")
    await client.stub.UpdateSession(changed)
    with pytest.raises(BadRequestError) as caught:
        await sdk.responses.create(**asked, input=words, truncation="disabled")
    assert caught.value.code == "context_length_exceeded"
    assert (await sdk.responses.create(**asked, input=words)).truncation == "auto"


async def test_models_and_vectors_are_found_by_name(sdk: AsyncOpenAI) -> None:
    names = [model.id async for model in sdk.models.list()]
    made = await sdk.embeddings.create(model=names[-1], input=["one", "two"])
    assert made.model in names
    assert MODEL in names
    assert len(names) > 1
    assert [(await sdk.models.retrieve(name)).id for name in names] == names
    vectors = await sdk.embeddings.create(model=made.model, input="one", encoding_format="float")
    assert vectors.model == made.model
