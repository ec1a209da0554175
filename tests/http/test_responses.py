"""OpenAI's SDK, unchanged, runs turns: whole, streamed, one after another; retrieves, pages and deletes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from isthmus.session.v1 import session_service_pb2
from openai import APIStatusError, AsyncOpenAI, ConflictError, NotFoundError, OpenAI
from openai.types.responses import Response

from tests.gateway.client import connected
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

MODEL = "scripted"
SLOW = {"scripted_tokens_per_s": 20.0, "scripted_output_tokens": 200}


async def refusal(call: Any) -> APIStatusError:
    """What a call was refused with."""
    with pytest.raises(APIStatusError) as caught:
        await call
    return caught.value


def told(error: APIStatusError) -> tuple[int, str | None, str | None]:
    """Status, code and parameter."""
    return error.status_code, error.code, error.param


def session_of(response: Response) -> str:
    """The session behind a response."""
    return response.id.split("_")[1]


async def begun(sdk: AsyncOpenAI, **fields: Any) -> tuple[Any, str]:
    """A stream that has said something, and its response's id."""
    stream = await sdk.responses.create(model=MODEL, stream=True, **fields)
    name = ""
    async for event in stream:
        if event.type == "response.created":
            name = event.response.id
        if event.type == "response.output_text.delta":
            break
    return stream, name


async def test_a_response_comes_whole_and_is_kept(sdk: AsyncOpenAI) -> None:
    made = await sdk.responses.create(
        model=MODEL, input="hello", instructions="be brief", metadata={"topic": "greeting"}, temperature=0.7, user="u"
    )
    assert (made.status, made.model, made.temperature, made.user) == ("completed", MODEL, 0.7, "u")
    assert made.output_text
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens > 0
    extra = made.model_extra or {}
    receipt = extra["isthmus"]["receipt"]
    assert receipt["tokens"]["window_tokens"] == made.usage.input_tokens
    assert {"gateway.context_store", "gateway.inference"} <= {hop["name"] for hop in receipt["hops"]}

    kept = await sdk.responses.retrieve(made.id)
    assert kept.output == made.output
    assert kept.usage == made.usage
    assert (kept.metadata, kept.created_at) == ({"topic": "greeting"}, made.created_at)


async def test_a_stream_says_what_is_then_kept(sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(model=MODEL, input="hello", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == last.response.output_text
    assert (await sdk.responses.retrieve(last.response.id)).output_text == text


async def test_the_sdks_own_stream_helper_agrees(sdk: AsyncOpenAI) -> None:
    async with sdk.responses.stream(model=MODEL, input="hello") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text == (await sdk.responses.retrieve(final.id)).output_text


async def test_responses_go_on_from_the_latest_one(sdk: AsyncOpenAI) -> None:
    first = await sdk.responses.create(model=MODEL, input="one", metadata={"a": "1"})
    second = await sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    assert session_of(second) == session_of(first)
    assert (second.previous_response_id, second.metadata) == (first.id, {"a": "1"})
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert (await sdk.responses.retrieve(second.id)).previous_response_id == first.id

    third = await sdk.responses.create(model=MODEL, input="three", previous_response_id=second.id, metadata={"b": "2"})
    assert (await sdk.responses.retrieve(third.id)).metadata == {"b": "2"}


async def test_a_response_branches_from_an_older_one(sdk: AsyncOpenAI) -> None:
    first = await sdk.responses.create(model=MODEL, input="one", metadata={"a": "1"})
    second = await sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    branch = await sdk.responses.create(
        model=MODEL, input="another two", previous_response_id=first.id, extra_headers={"Idempotency-Key": "k1"}
    )
    assert session_of(branch) != session_of(first)
    assert (branch.previous_response_id, branch.metadata) == (first.id, {"a": "1"})
    read = await sdk.responses.retrieve(branch.id)
    assert (read.previous_response_id, read.output_text) == (first.id, branch.output_text)
    # The same once more is the same response, and both lines go on.
    again = await sdk.responses.create(
        model=MODEL, input="another two", previous_response_id=first.id, extra_headers={"Idempotency-Key": "k1"}
    )
    assert again.id == branch.id
    on = await sdk.responses.create(model=MODEL, input="three", previous_response_id=branch.id)
    assert session_of(on) == session_of(branch)
    assert session_of(await sdk.responses.create(model=MODEL, input="3", previous_response_id=second.id)) == session_of(
        first
    )
    items = [item async for item in sdk.responses.input_items.list(branch.id)]
    assert len(items) == 1


async def test_a_branch_leaves_its_conversation(sdk: AsyncOpenAI) -> None:
    conversation = await sdk.conversations.create(metadata={"kind": "test"})
    first = await sdk.responses.create(model=MODEL, input="one", conversation=conversation.id)
    await sdk.responses.create(model=MODEL, input="two", conversation=conversation.id)
    branch = await sdk.responses.create(model=MODEL, input="another two", previous_response_id=first.id)
    for shown in (branch, await sdk.responses.retrieve(branch.id)):
        assert (shown.conversation, shown.metadata, shown.previous_response_id) == (None, {}, first.id)


async def test_a_reply_at_its_length_limit_is_incomplete(sdk: AsyncOpenAI) -> None:
    made = await sdk.responses.create(model=MODEL, input="hello", max_output_tokens=3)
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.max_output_tokens == 3


async def test_input_items_come_in_pages_in_either_order(sdk: AsyncOpenAI) -> None:
    long = "A sentence that is long enough. " * 6_000
    items: Any = [{"role": "user", "content": text} for text in ("first", long, "third")]
    made = await sdk.responses.create(model=MODEL, input=items, instructions="be brief")
    texts = ["be brief", "first", long, "third"]
    for limit in (1, 2, 20):
        seen = [item async for item in sdk.responses.input_items.list(made.id, limit=limit, order="asc")]
        assert [item.content[0].text for item in seen] == texts  # type: ignore[union-attr, index]
        back = [item async for item in sdk.responses.input_items.list(made.id, limit=limit)]
        assert back == seen[::-1]
    page = await sdk.responses.input_items.list(made.id, limit=4)
    assert not page.has_more
    missing = await refusal(sdk.responses.input_items.list(made.id, after="msg_other_1"))
    assert told(missing) == (404, "not_found", "after")


async def test_a_deleted_response_is_gone_with_its_texts(sdk: AsyncOpenAI, mesh: Mesh) -> None:
    first = await sdk.responses.create(model=MODEL, input="one")
    second = await sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    await sdk.responses.delete(first.id)
    assert told(await refusal(sdk.responses.retrieve(first.id))) == (404, "not_found", "response_id")
    assert (await sdk.responses.retrieve(second.id)).output_text == second.output_text
    items = await sdk.conversations.items.list(f"conv_{session_of(second)}", order="asc")
    assert [item.type for item in items.data] == ["message", "message"]

    lone = await sdk.responses.create(model=MODEL, input="alone")
    await sdk.responses.delete(lone.id)
    gone = await refusal(sdk.conversations.retrieve(f"conv_{session_of(lone)}"))
    assert told(gone) == (404, "not_found", "conversation_id")


async def test_what_is_not_to_be_stored_is_erased_after_the_answer(sdk: AsyncOpenAI) -> None:
    made = await sdk.responses.create(model=MODEL, input="secret", store=False)
    assert made.output_text
    with pytest.raises(NotFoundError):
        await sdk.responses.retrieve(made.id)
    kept = await sdk.responses.create(model=MODEL, input="kept")
    refused = await refusal(sdk.responses.create(model=MODEL, input="x", previous_response_id=kept.id, store=False))
    assert told(refused) == (400, "unsupported_parameter", "store")


async def test_an_idempotency_key_makes_one_turn_however_often_it_is_sent(sdk: AsyncOpenAI) -> None:
    async def create(text: str = "hello", key: str = "first", **fields: Any) -> Response:
        headers = {"Idempotency-Key": key}
        made: Response = await sdk.responses.create(model=MODEL, input=text, extra_headers=headers, **fields)
        return made

    answers = await asyncio.gather(*(create() for _ in range(10)))
    assert {answer.id for answer in answers} == {answers[0].id}
    assert {answer.output_text for answer in answers} == {answers[0].output_text}
    assert told(await refusal(create("another"))) == (400, "request_id_reused", None)
    again = [await create("more", "second", previous_response_id=answers[0].id) for _ in range(2)]
    assert again[0].id == again[1].id
    assert told(await refusal(create(key="k" * 129))) == (400, "invalid_field", "Idempotency-Key")


async def test_a_refused_first_turn_leaves_no_session_behind(sdk: AsyncOpenAI, mesh: Mesh) -> None:
    refused = await refusal(sdk.responses.create(model="nobody-has-this", input="x"))
    assert told(refused)[:2] == (404, "model_not_found")
    async with connected(mesh.grpc_target) as client:
        assert not (await client.stub.ListSessions(session_service_pb2.ListSessionsRequest())).sessions


@pytest.mark.parametrize("engine", [SLOW])
async def test_one_turn_at_a_time_and_a_client_that_leaves_frees_the_session(sdk: AsyncOpenAI) -> None:
    conversation = await sdk.conversations.create()
    stream, name = await begun(sdk, input="a", conversation=conversation.id)
    with pytest.raises(ConflictError) as caught:
        await sdk.responses.create(model=MODEL, input="b", conversation=conversation.id)
    assert told(caught.value)[:2] == (409, "turn_in_progress")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert (await sdk.responses.retrieve(name)).status == "in_progress"

    await stream.close()

    async def failed() -> bool:
        return (await sdk.responses.retrieve(name)).status == "failed"

    await eventually(failed)
    after, _ = await begun(sdk, input="c", conversation=conversation.id)
    await after.close()


@pytest.mark.parametrize("engine", [SLOW])
async def test_a_client_that_leaves_without_a_stream_ends_its_turn_too(sdk: AsyncOpenAI) -> None:
    conversation = await sdk.conversations.create()
    asking = asyncio.create_task(sdk.responses.create(model=MODEL, input="a", conversation=conversation.id))
    name = f"resp_{conversation.id.removeprefix('conv_')}_1"

    async def is_at(status: str) -> bool:
        try:
            return (await sdk.responses.retrieve(name)).status == status
        except NotFoundError:
            return False

    await eventually(lambda: is_at("in_progress"))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: is_at("failed"))


@pytest.mark.parametrize("engine", [SLOW])
async def test_a_cancelled_response_ends_its_stream(sdk: AsyncOpenAI) -> None:
    stream, name = await begun(sdk, input="a")
    assert (await sdk.responses.cancel(name)).status == "cancelled"
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "turn_cancelled"


async def test_the_synchronous_sdk_works_as_well(mesh: Mesh) -> None:
    def talk() -> list[str]:
        with OpenAI(base_url=f"{mesh.http_url}/v1", api_key="none", max_retries=0) as client:
            first = client.responses.create(model=MODEL, input="one")
            events = client.responses.create(model=MODEL, input="two", previous_response_id=first.id, stream=True)
            return [first.output_text, *(event.type for event in events)]

    said = await asyncio.to_thread(talk)
    assert said[0]
    assert said[-1] == "response.completed"
