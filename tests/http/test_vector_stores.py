"""`/v1/vector_stores` by OpenAI's own SDK: made, filled in the background, searched, in batches; and what is refused."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.mesh import Mesh
from tests.support.eventually import eventually

TEXT = "The isthmus is narrow here.\n" * 500


async def test_a_store_is_made_changed_listed_and_deleted(sdk: AsyncOpenAI) -> None:
    made = await sdk.vector_stores.create(
        name="notes",
        description="what I know",
        metadata={"team": "red"},
        expires_after={"anchor": "last_active_at", "days": 2},
    )
    assert (made.name, made.metadata, made.status, made.usage_bytes) == ("notes", {"team": "red"}, "completed", 0)
    assert made.expires_after is not None and made.expires_after.days == 2
    assert made.expires_at is not None and made.last_active_at is not None
    assert made.expires_at - made.last_active_at == 2 * 86_400
    assert await sdk.vector_stores.retrieve(made.id) == made
    changed = await sdk.vector_stores.update(made.id, name="facts", metadata={"team": "blue"}, expires_after=None)
    assert (changed.name, changed.metadata, changed.expires_at) == ("facts", {"team": "blue"}, None)
    second = await sdk.vector_stores.create()
    assert [each.id async for each in sdk.vector_stores.list(limit=1)] == [second.id, made.id]
    assert [each.id async for each in sdk.vector_stores.list(order="asc", after=made.id)] == [second.id]
    assert (await sdk.vector_stores.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        await sdk.vector_stores.retrieve(made.id)


async def test_a_file_is_copied(sdk: AsyncOpenAI) -> None:
    file = await sdk.files.create(file=("notes.md", TEXT.encode()), purpose="assistants")
    store = await sdk.vector_stores.create(file_ids=[file.id])

    async def whole() -> bool:
        return (await sdk.vector_stores.files.retrieve(file.id, vector_store_id=store.id)).usage_bytes == len(TEXT)

    await eventually(whole)
    print(await sdk.vector_stores.files.retrieve(file.id, vector_store_id=store.id))
    print(await sdk.vector_stores.retrieve(store.id))
    parts = await sdk.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert "".join(part.text or "" for part in parts.data) == TEXT
    assert (await sdk.vector_stores.files.delete(file.id, vector_store_id=store.id)).deleted
    assert [each async for each in sdk.vector_stores.files.list(store.id)] == []
    assert (await sdk.vector_stores.retrieve(store.id)).usage_bytes == 0
