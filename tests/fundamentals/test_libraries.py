"""Files and vector stores, as OpenAI's own SDK has them: uploaded, searched by words and meaning, taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from services.config import LibrariesSettings, Settings
from tests.support.mesh import Mesh, changed, running_mesh

CANAL = "The isthmus of Panama was cut by a canal. Ships pay to go through its locks. " * 20
HERON = "A heron stands in the reeds and waits for fish. It does not move for hours. " * 20


@pytest.fixture
async def mesh(quick: Settings) -> AsyncIterator[Mesh]:
    """With a compressor, which gives documents their vectors."""
    prompt = changed(quick, "gateway", libraries=LibrariesSettings(embed_poll_ms=50))
    async with running_mesh(prompt, shards=2, replicas=1, compressors=1) as running:
        yield running


@pytest.fixture
async def sdk(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, but for its base URL."""
    async with AsyncOpenAI(base_url=f"{mesh.http_url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_files_are_uploaded_and_searched(sdk: AsyncOpenAI) -> None:
    # A store of a file that is there, and one that is uploaded into it.
    canal = await sdk.files.create(file=("canal.md", CANAL.encode()), purpose="assistants")
    store = await sdk.vector_stores.create(name="nature", file_ids=[canal.id])
    heron = await sdk.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("heron.md", HERON.encode()),
        attributes={"kind": "bird", "year": 2026},
        poll_interval_ms=50,
    )
    assert (heron.status, heron.usage_bytes, heron.last_error) == ("completed", len(HERON), None)
    await sdk.vector_stores.files.poll(canal.id, vector_store_id=store.id, poll_interval_ms=50)
    full = await sdk.vector_stores.retrieve(store.id)
    assert (full.status, full.file_counts.completed, full.usage_bytes) == ("completed", 2, len(CANAL) + len(HERON))

    # By words and by meaning, best first.
    found = await sdk.vector_stores.search(store.id, query="Which bird waits by the water?", max_num_results=2)
    assert (found.data[0].file_id, found.data[0].filename) == (heron.id, "heron.md")
    assert "heron" in found.data[0].content[0].text
    assert found.data[0].attributes == {"kind": "bird", "year": 2026}
    assert all(0 <= each.score <= 1 for each in found.data)
    assert [each.score for each in found.data] == sorted((each.score for each in found.data), reverse=True)
    # What only this edge tells: that meaning had its part.
    assert found.model_extra is not None
    assert found.model_extra["isthmus"]["words_only"] is False

    # Among some of the files alone.
    only = await sdk.vector_stores.search(
        store.id, query="Which bird waits by the water?", filters={"type": "ne", "key": "kind", "value": "bird"}
    )
    assert {each.file_id for each in only.data} == {canal.id}
    late = await sdk.vector_stores.search(
        store.id, query=["ships", "fish"], filters={"type": "gte", "key": "year", "value": 2026}
    )
    assert {each.file_id for each in late.data} == {heron.id}

    # Several at once; one that is taken out is not found any more.
    batch = await sdk.vector_stores.file_batches.upload_and_poll(
        store.id, files=[(f"fill-{number}.md", f"Number {number}. {HERON}".encode()) for number in range(3)]
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 3)
    await sdk.vector_stores.files.delete(canal.id, vector_store_id=store.id)
    rest = await sdk.vector_stores.search(store.id, query="ships in the locks of a canal", max_num_results=50)
    assert canal.id not in {each.file_id for each in rest.data}
