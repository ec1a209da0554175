"""`/v1/files` by OpenAI's own SDK, and what it refuses."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI

TEXT = "The isthmus is narrow here.\n" * 2_000


async def test_a_file_comes_back_as_it_was_uploaded(sdk: AsyncOpenAI) -> None:
    made = await sdk.files.create(file=("notes.md", TEXT.encode()), purpose="assistants")
    assert (made.filename, made.bytes, made.purpose, made.object) == ("notes.md", len(TEXT), "assistants", "file")
    assert made.expires_at is None
    found = await sdk.files.retrieve(made.id)
    assert found == made
    assert (await sdk.files.content(made.id)).text == TEXT
    assert [each.id async for each in sdk.files.list()] == [made.id]
    assert (await sdk.files.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        await sdk.files.retrieve(made.id)
    assert [each async for each in sdk.files.list()] == []
