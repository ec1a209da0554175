"""OpenAI's SDK, unchanged, chats: it resends its history, and only what is new moves inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.session.v1 import message_pb2, session_service_pb2
from openai import APIError, APIStatusError, AsyncOpenAI, OpenAI

from gateway.http.chat import recall
from inference.engine import EngineOutput, EngineRequest
from services.config import GatewaySettings
from services.router import STORE
from tests.gateway.client import Client, connected, turn_request
from tests.http.chats import MODEL, Answered, answered, ask, assistant, conversation, log_of, moved, sessions, user
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

SLOW = {"scripted_tokens_per_s": 20.0, "scripted_output_tokens": 200}
SHORT: dict[str, Any] = {"max_tokens": 2}


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    """The gRPC edge, to look behind."""
    async with connected(mesh.grpc_target) as connection:
        yield connection


async def refusal(call: Any) -> tuple[int, str | None, str | None]:
    """Status, code and parameter of what a call was refused with."""
    with pytest.raises(APIStatusError) as caught:
        await call
    return caught.value.status_code, caught.value.code, caught.value.param


async def test_a_history_that_is_sent_again_is_cut_to_what_is_new(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [{"role": "system", "content": "be brief"}, user("one")]
    answers: list[Answered] = []
    for text in ("two", "three", "four"):
        answers.append(await ask(sdk, messages))
        messages += [assistant(answers[-1].text), user(text)]
    last = await ask(sdk, messages)
    assert {each.session for each in answers} == {last.session}
    assert [each.turn for each in (*answers, last)] == [1, 2, 3, 4]
    assert await moved(client, last) == 1
    assert await conversation(client, last) == [*messages, assistant(last.text)]
    assert last.receipt["tokens"]["reused_tokens"] > 0
    assert await sessions(client) == [last.session]


async def test_a_completion_tells_what_it_cost(sdk: AsyncOpenAI) -> None:
    first: Any = [user("hello")]
    made = await sdk.chat.completions.create(model=MODEL, messages=first, temperature=0.5, seed=3)
    again: Any = [*first, assistant(made.choices[0].message.content or ""), user("more")]
    more = await sdk.chat.completions.create(model=MODEL, messages=again, temperature=0.5, seed=3)
    assert (made.object, made.model, made.choices[0].finish_reason) == ("chat.completion", MODEL, "stop")
    assert made.usage is not None
    assert more.usage is not None
    assert more.usage.prompt_tokens_details is not None
    assert more.usage.prompt_tokens > made.usage.prompt_tokens
    assert more.usage.total_tokens == more.usage.prompt_tokens + more.usage.completion_tokens
    assert more.usage.prompt_tokens_details.cached_tokens == answered(more).receipt["tokens"]["cached_tokens"] > 0


async def test_an_answer_at_its_bound_says_so(sdk: AsyncOpenAI) -> None:
    hello: Any = [user("hello")]
    for bound in ("max_tokens", "max_completion_tokens"):
        fields: Any = {bound: 3}
        made = await sdk.chat.completions.create(model=MODEL, messages=hello, **fields)
        assert made.choices[0].finish_reason == "length"
        assert made.usage is not None
        assert made.usage.completion_tokens == 3


async def test_a_stream_says_what_is_then_recognised(sdk: AsyncOpenAI, client: Client) -> None:
    messages: Any = [user("hello")]
    options: Any = {"include_usage": True}
    stream = await sdk.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    more = await ask(sdk, [*messages, assistant(text), user("more")])
    assert chunks[0].id == f"chatcmpl-{more.session}_1"
    assert (more.turn, await moved(client, more)) == (2, 1)


async def test_the_sdks_own_stream_helper_agrees(sdk: AsyncOpenAI) -> None:
    messages: Any = [user("hello")]
    async with sdk.chat.completions.stream(model=MODEL, messages=messages) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    text = final.choices[0].message.content or ""
    assert (await ask(sdk, [*messages, assistant(text), user("more")])).turn == 2


async def test_an_answer_goes_back_as_the_sdk_gave_it(mesh: Mesh) -> None:
    def talk() -> list[str]:
        with OpenAI(base_url=f"{mesh.http_url}/v1", api_key="none", max_retries=0) as client:
            messages: list[Any] = [user("one")]
            first = client.chat.completions.create(model=MODEL, messages=messages)
            messages += [first.choices[0].message, user("two")]
            return [first.id, client.chat.completions.create(model=MODEL, messages=messages).id]

    first, second = await asyncio.to_thread(talk)
    assert second == f"{first.removesuffix('_1')}_2"


async def test_an_answer_is_asked_for_anew(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [user("one")]
    first = await ask(sdk, messages)
    messages += [assistant(first.text), user("two")]
    second = await ask(sdk, messages)
    anew = await ask(sdk, messages, seed=5)
    assert (anew.session != second.session, anew.turn, anew.text != second.text) == (True, 2, True)
    assert await moved(client, anew) == 1
    # Both answers are gone on from, each where it was given.
    for answer in (second, anew):
        more = await ask(sdk, [*messages, assistant(answer.text), user("three")])
        assert (more.session, more.turn) == (answer.session, 3)


async def test_a_history_that_was_changed_is_another_conversation(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [user("one")]
    for text in ("two", "three"):
        messages += [assistant((await ask(sdk, messages)).text), user(text)]
    last = await ask(sdk, messages)
    for place, brings in ((0, 5), (1, 5), (2, 3), (3, 3), (4, 1)):
        changed = [dict(each) for each in messages]
        changed[place]["content"] += "!"
        answer = await ask(sdk, changed)
        assert answer.session != last.session
        assert await moved(client, answer) == brings
        assert await conversation(client, answer) == [*changed, assistant(answer.text)]


async def test_users_of_one_tenant_have_no_sessions_in_common(sdk: AsyncOpenAI) -> None:
    first = await ask(sdk, [user("one")], user="ada")
    messages = [user("one"), assistant(first.text), user("two")]
    other = await ask(sdk, messages, user="bob")
    assert (other.session != first.session, other.turn) == (True, 1)
    assert (await ask(sdk, messages, user="ada")).session == first.session


async def test_requests_with_the_same_history_do_not_wait_for_each_other(sdk: AsyncOpenAI, client: Client) -> None:
    first = await ask(sdk, [user("one")])
    messages = [user("one"), assistant(first.text), user("two")]
    # Some are equal in everything, as a client's retries are.
    answers = await asyncio.gather(*(ask(sdk, messages, seed=seed) for seed in (1, 1, 1, 1, 2, 3, 4, 5)))
    assert len({each.text for each in answers}) == 5
    assert len({each.session for each in answers}) == 8
    for answer in answers:
        assert await conversation(client, answer) == [*messages, assistant(answer.text)]
    for answer in answers:
        longer = [*messages, assistant(answer.text), user("three")]
        assert await conversation(client, more := await ask(sdk, longer)) == [*longer, assistant(more.text)]


async def test_a_conversation_that_went_on_meanwhile_is_left_where_it_is(
    sdk: AsyncOpenAI, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ask(sdk, [user("one")])
    messages = [user("one"), assistant(first.text), user("two")]
    found, others_are_done = asyncio.Event(), asyncio.Event()
    place = recall.Recall.place

    async def late(self: recall.Recall) -> recall.Place:
        there = await place(self)
        if not found.is_set():
            found.set()
            await others_are_done.wait()
        return there

    monkeypatch.setattr(recall.Recall, "place", late)
    slow = asyncio.create_task(ask(sdk, messages))
    await found.wait()
    quick = await ask(sdk, messages, seed=1)
    others_are_done.set()
    answer = await slow
    assert (quick.session, answer.session != quick.session, answer.turn) == (first.session, True, 2)
    assert await conversation(client, answer) == [*messages, assistant(answer.text)]


async def test_an_idempotency_key_makes_one_turn_however_often_it_is_sent(sdk: AsyncOpenAI, client: Client) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await asyncio.gather(*(ask(sdk, [user("one")], extra_headers=headers) for _ in range(6)))
    assert len({(each.session, each.turn, each.text) for each in first}) == 1
    messages = [user("one"), assistant(first[0].text), user("two")]
    headers = {"Idempotency-Key": "l"}
    second = await asyncio.gather(*(ask(sdk, messages, extra_headers=headers) for _ in range(6)))
    assert len({(each.session, each.turn, each.text) for each in second}) == 1
    assert await moved(client, second[0]) == 1
    assert await conversation(client, second[0]) == [*messages, assistant(second[0].text)]
    # What another request has made of the same history in between changes nothing.
    await ask(sdk, messages)
    assert await ask(sdk, messages, extra_headers=headers) == second[0]

    for changed in ([user("one"), assistant("no"), user("two")], [*messages[:2], user("three")], messages[:2]):
        assert await refusal(ask(sdk, changed, extra_headers=headers)) == (400, "request_id_reused", None)
    assert (await refusal(ask(sdk, messages, extra_headers={"Idempotency-Key": "k" * 129})))[2] == "Idempotency-Key"


async def test_what_is_not_to_be_stored_is_erased_with_its_answer(mesh: Mesh, sdk: AsyncOpenAI, client: Client) -> None:
    kept = await ask(sdk, [user("one")])
    messages = [user("one"), assistant(kept.text), user("secret")]
    assert (await ask(sdk, messages, store=False)).text
    assert await sessions(client) == [kept.session]
    shard: Any = mesh.rooms["context_store-0"]
    assert len(await shard.store.log.list_sessions("local", "bookmark", "", 10)) == 1
    assert (await ask(sdk, messages)).session == kept.session


async def test_metadata_are_kept_with_the_context(sdk: AsyncOpenAI) -> None:
    first = await ask(sdk, [user("one")], metadata={"a": "1"})
    messages = [user("one"), assistant(first.text), user("two")]
    for metadata in ({"b": "2"}, None):
        answer = await ask(sdk, messages, **({"metadata": metadata} if metadata else {}))
        assert (await sdk.conversations.retrieve(f"conv_{answer.session}")).metadata == {"b": "2"}
        messages += [assistant(answer.text), user("more")]


async def test_a_session_that_others_write_to_is_left_to_them(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [user("one")]
    first = await ask(sdk, messages)
    messages += [assistant(first.text), user("two")]
    items: Any = [user("an aside")]
    await sdk.conversations.items.create(f"conv_{first.session}", items=items)
    second = await ask(sdk, messages)
    assert (second.session != first.session, second.turn, await moved(client, second)) == (True, 2, 1)
    assert await conversation(client, second) == [*messages, assistant(second.text)]

    await client.turn(turn_request(second.session, "by another way"))
    messages += [assistant(second.text), user("three")]
    third = await ask(sdk, messages)
    assert (third.session != second.session, third.turn) == (True, 3)
    assert await conversation(client, third) == [*messages, assistant(third.text)]


async def test_what_was_erased_comes_back_with_the_client_that_sends_it(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [user("one")]
    first = await ask(sdk, messages)
    messages += [assistant(first.text), user("two")]
    await sdk.conversations.items.delete(f"msg_{first.session}_1", conversation_id=f"conv_{first.session}")
    second = await ask(sdk, messages)
    assert (second.session != first.session, second.turn, await moved(client, second)) == (True, 1, 3)

    await sdk.conversations.delete(f"conv_{second.session}")
    messages += [assistant(second.text), user("three")]
    third = await ask(sdk, messages)
    assert await conversation(client, third) == [*messages, assistant(third.text)]
    # Nothing is left of places that were tried.
    assert await sessions(client) == sorted([first.session, third.session])


async def test_a_conversation_whose_bookmark_is_gone_is_taken_in_anew(
    mesh: Mesh, sdk: AsyncOpenAI, client: Client
) -> None:
    first = await ask(sdk, [user("one")])
    async with grpc.aio.insecure_channel(mesh.view.ready(STORE)[0].endpoint) as channel:
        stub = ContextServiceStub(channel)
        listed = await stub.ListSessions(api.ListSessionsRequest(tenant="local", collection="bookmark"))
        (bookmark,) = listed.sessions
        assert (bookmark.ttl.ToMilliseconds(), bookmark.revision) == (GatewaySettings().chat_bookmark_ms, 0)
        key = api.SessionKey(tenant="local", session=bookmark.name.removeprefix("sessions/"))
        await stub.DeleteSession(api.DeleteSessionRequest(key=key))
    messages = [user("one"), assistant(first.text), user("two")]
    second = await ask(sdk, messages)
    assert (second.session != first.session, second.turn, await moved(client, second)) == (True, 1, 3)
    assert await conversation(client, second) == [*messages, assistant(second.text)]


async def test_a_long_history_that_nobody_knows_is_taken_in_parts(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [user(f"message {number} of many") for number in range(600)]
    first = await ask(sdk, messages)
    assert (first.turn, await moved(client, first)) == (1, 600 - 2 * 256)
    assert await conversation(client, first) == [*messages, assistant(first.text)]
    keyed = await ask(sdk, messages, extra_headers={"Idempotency-Key": "k"})
    assert await ask(sdk, messages, extra_headers={"Idempotency-Key": "k"}) == keyed
    assert len(await log_of(client, keyed.session)) == 601

    longer = [*messages, assistant(first.text), *(user(f"more {number}") for number in range(300))]
    second = await ask(sdk, longer)
    assert (second.session != first.session, await moved(client, second)) == (True, 300 - 256)
    assert await conversation(client, second) == [*longer, assistant(second.text)]


async def test_an_answer_from_elsewhere_hides_no_earlier_one(sdk: AsyncOpenAI, client: Client) -> None:
    messages = [user("one")]
    first = await ask(sdk, messages)
    messages += [assistant(first.text)]
    for _ in range(GatewaySettings().chat_lookups_count_max - 1):
        messages += [user("two"), assistant("somebody else's")]
    known = await ask(sdk, [*messages, user("last")])
    assert known.session == first.session
    assert await conversation(client, known) == [*messages, user("last"), assistant(known.text)]


@pytest.mark.parametrize("engine", [SLOW])
async def test_a_client_that_leaves_ends_its_turn_and_may_ask_again(sdk: AsyncOpenAI, client: Client) -> None:
    first = await ask(sdk, [user("one")], **SHORT)
    messages: Any = [user("one"), assistant(first.text), user("two")]
    stream = await sdk.chat.completions.create(model=MODEL, messages=messages, stream=True)
    chunk = await anext(aiter(stream))
    name = f"sessions/{first.session}/turns/2"
    assert chunk.id == f"chatcmpl-{first.session}_2"
    # While it is under way, too.
    beside = await ask(sdk, messages, **SHORT)
    assert beside.session != first.session
    await stream.close()

    async def has_failed() -> bool:
        turn = await client.get_turn(name)
        return turn.state == turn.STATE_FAILED

    await eventually(has_failed)
    again = await ask(sdk, messages, **SHORT)
    assert await conversation(client, again) == [*messages, assistant(again.text)]
    assert await moved(client, again) == 1


@pytest.mark.parametrize("engine", [SLOW])
async def test_a_first_turn_that_came_to_nothing_leaves_nothing(sdk: AsyncOpenAI, client: Client) -> None:
    asking = asyncio.create_task(ask(sdk, [user("one")]))

    async def count(wanted: int) -> bool:
        return len(await sessions(client)) == wanted

    await eventually(lambda: count(1))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: count(0))


@pytest.mark.parametrize("engine", [SLOW])
async def test_a_turn_that_is_cancelled_ends_its_stream_with_an_error(sdk: AsyncOpenAI, client: Client) -> None:
    messages: Any = [user("one")]
    stream = await sdk.chat.completions.create(model=MODEL, messages=messages, stream=True)
    chunks = aiter(stream)
    name = (await anext(chunks)).id.removeprefix("chatcmpl-")
    turn = "sessions/{}/turns/{}".format(*name.split("_"))
    await client.stub.CancelTurn(session_service_pb2.CancelTurnRequest(name=turn))
    with pytest.raises(APIError) as caught:
        _ = [chunk async for chunk in chunks]
    assert caught.value.code == "turn_cancelled"


async def test_what_the_engine_does_not_take_is_told_by_openais_name(sdk: AsyncOpenAI, client: Client) -> None:
    for param, value in (("logprobs", True), ("presence_penalty", 1.0)):
        assert await refusal(ask(sdk, [user("x")], **{param: value})) == (400, "invalid_field", param)
    assert await refusal(ask(sdk, [user("x")], n=2)) == (400, "unsupported_parameter", "n")
    assert not await sessions(client)


async def test_what_the_engine_says_of_its_tokens_is_told_and_a_form_reaches_it(
    mesh: Mesh, sdk: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    room: Any = mesh.rooms["inference-0"]
    generate = room.engine.generate
    seen: list[tuple[int | None, bool]] = []

    async def likely(request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        sampling = request.sampling
        assert sampling.structured_output is None or sampling.structured_output.json_schema == '{"type":"array"}'
        seen.append((sampling.logprobs, sampling.structured_output is not None))
        async for output in generate(request):
            other = message_pb2.TokenLogprob(token=b"no", logprob=-2.0)
            one = message_pb2.TokenLogprob(token=b"yes", logprob=-0.5, likeliest=[other])
            yield replace(output, logprobs=(one,) * len(output.token_ids))

    monkeypatch.setattr(room.engine, "generate", likely)
    monkeypatch.setattr(room.engine, "samples", frozenset({"logprobs", "structured_output"}))
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}
    asked: Any = {"model": MODEL, "messages": [user("one")], "logprobs": True, "top_logprobs": 1, "max_tokens": 20}
    made = await sdk.chat.completions.create(**asked, response_format=form)
    stream = await sdk.chat.completions.create(**asked, stream=True)
    pieces = [chunk.choices[0].logprobs for chunk in [chunk async for chunk in stream]]
    assert seen == [(1, True), (1, False)]
    # The smallest array is shorter than any answer that may be anything.
    for told, count in (([made.choices[0].logprobs], made.usage.completion_tokens), (pieces, 20)):
        tokens = [token for each in told if each for token in each.content or ()]
        assert len(tokens) == count
        assert (tokens[0].token, tokens[0].logprob, tokens[0].top_logprobs[0].token) == ("yes", -0.5, "no")


async def test_any_gateway_recognises_what_another_answered(mesh: Mesh, sdk: AsyncOpenAI, client: Client) -> None:
    other = await mesh.add_gateway(1)
    async with AsyncOpenAI(base_url=f"http://{other.http_address}/v1", api_key="none", max_retries=0) as beside:
        messages = [user("one")]
        for number, door in enumerate((sdk, beside, sdk, beside), 1):
            answer = await ask(door, messages)
            assert answer.turn == number
            messages += [assistant(answer.text), user(f"message {number}")]
    assert await sessions(client) == [answer.session]


async def test_the_openapi_document_has_chats_and_embeddings(http: httpx.AsyncClient) -> None:
    document = (await http.get("/schema/openapi.json")).json()
    assert {"/v1/chat/completions", "/v1/embeddings"} <= document["paths"].keys()
    schemas = document["components"]["schemas"]
    assert {"messages", "response_format"} <= schemas["CreateChatCompletion"]["properties"].keys()
    assert {"input", "dimensions"} <= schemas["CreateEmbeddings"]["properties"].keys()
