"""Conversations and their items, by OpenAI's SDK; every session is one, whoever made it."""

from __future__ import annotations

from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, NotFoundError

from tests.gateway.client import connected
from tests.support.mesh import Mesh

MODEL = "scripted"


def text_of(item: Any) -> str:
    """The text of a message of one part."""
    return str(item.content[0].text)


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


async def texts(sdk: AsyncOpenAI, conversation: str, **query: Any) -> list[str]:
    """All texts of a conversation, over as many pages as it takes."""
    return [text_of(item) async for item in sdk.conversations.items.list(conversation, **query)]


async def test_a_conversation_keeps_its_metadata(sdk: AsyncOpenAI) -> None:
    made = await sdk.conversations.create(metadata={"a": "1"})
    assert (await sdk.conversations.retrieve(made.id)).metadata == {"a": "1"}
    changed = await sdk.conversations.update(made.id, metadata={"b": "2"})
    assert changed.metadata == {"b": "2"}
    assert await sdk.conversations.retrieve(made.id) == changed

    gone = await sdk.conversations.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(NotFoundError):
        await sdk.conversations.retrieve(made.id)


async def test_items_are_added_listed_read_and_deleted(sdk: AsyncOpenAI) -> None:
    made = await sdk.conversations.create(items=[user("one")])
    two: Any = {"role": "assistant", "content": [{"type": "output_text", "text": "two", "annotations": []}]}
    added = await sdk.conversations.items.create(made.id, items=[two, user("three")])
    assert [text_of(item) for item in added.data] == ["two", "three"]
    assert await texts(sdk, made.id, order="asc", limit=1) == ["one", "two", "three"]
    assert await texts(sdk, made.id, limit=2) == ["three", "two", "one"]

    name = added.data[0].id or ""
    assert await sdk.conversations.items.retrieve(name, conversation_id=made.id) == added.data[0]
    await sdk.conversations.items.delete(name, conversation_id=made.id)
    with pytest.raises(NotFoundError):
        await sdk.conversations.items.retrieve(name, conversation_id=made.id)
    assert await texts(sdk, made.id, order="asc") == ["one", "three"]


async def test_a_response_in_a_conversation_adds_its_items_to_it(sdk: AsyncOpenAI) -> None:
    made = await sdk.conversations.create(items=[user("one")])
    first = await sdk.responses.create(model=MODEL, input="two", conversation=made.id)
    second = await sdk.responses.create(model=MODEL, input="three", conversation={"id": made.id}, store=False)
    assert first.conversation is not None
    assert first.conversation.id == made.id
    assert await texts(sdk, made.id, order="asc") == ["one", "two", first.output_text, "three", second.output_text]
    items = await sdk.conversations.items.list(made.id, limit=1)
    assert items.data[0].id == second.output[0].id
    reply = await sdk.conversations.items.retrieve(second.output[0].id or "", conversation_id=made.id)
    assert text_of(reply) == second.output_text
    after = await sdk.conversations.items.list(made.id, order="asc", after=first.output[0].id or "")
    assert [text_of(item) for item in after.data] == ["three", second.output_text]
    assert (await sdk.responses.retrieve(second.id)).conversation == second.conversation


async def test_conversation_and_previous_response_exclude_each_other(sdk: AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    first = await sdk.responses.create(model=MODEL, input="one", conversation=made.id)
    for fields in ({"previous_response_id": first.id}, {"metadata": {"a": "1"}}):
        with pytest.raises(APIStatusError) as caught:
            await sdk.responses.create(model=MODEL, input="x", conversation=made.id, **fields)
        assert (caught.value.status_code, caught.value.param) == (400, next(iter(fields)))


async def test_a_retried_creation_makes_one_conversation(sdk: AsyncOpenAI) -> None:
    made = [
        await sdk.conversations.create(items=[user("one")], extra_headers={"Idempotency-Key": "key"}) for _ in range(2)
    ]
    assert made[0] == made[1]
    assert await texts(sdk, made[0].id) == ["one"]


async def test_a_session_made_elsewhere_is_a_conversation(sdk: AsyncOpenAI, mesh: Mesh) -> None:
    async with connected(mesh.grpc_target) as client:
        await client.create("made-elsewhere", labels={"k": "v"})
        await client.ingest("made-elsewhere", "doc", b"hello")
    assert (await sdk.conversations.retrieve("conv_made-elsewhere")).metadata == {"k": "v"}
    answer = await sdk.responses.create(model=MODEL, input="and?", conversation="conv_made-elsewhere")
    assert await texts(sdk, "conv_made-elsewhere", order="asc") == ["hello", "and?", answer.output_text]
