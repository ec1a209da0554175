"""`/v1/vector_stores` by OpenAI's own SDK, where nothing makes vectors: made, filled, looked up; what is refused."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from gateway.libraries.attachment import Attachment
from gateway.libraries.book import Book, Place
from services.config import Settings
from services.valkey import Acknowledger, connect
from tests.support.eventually import eventually

TEXT = "The isthmus is narrow here.\n" * 500


async def uploaded(sdk: AsyncOpenAI, name: str = "notes.md", text: str = TEXT) -> str:
    """A file's id."""
    return (await sdk.files.create(file=(name, text.encode()), purpose="assistants")).id


async def test_a_store_is_made_changed_listed_and_deleted(sdk: AsyncOpenAI) -> None:
    made = await sdk.vector_stores.create(
        name="notes",
        description="what I know",
        metadata={"team": "red"},
        expires_after={"anchor": "last_active_at", "days": 2},
    )
    assert (made.name, made.metadata, made.status, made.usage_bytes) == ("notes", {"team": "red"}, "completed", 0)
    assert made.expires_after is not None
    assert made.expires_after.days == 2
    assert made.expires_at is not None
    assert made.last_active_at is not None
    assert made.expires_at - made.last_active_at == 2 * 86_400
    assert await sdk.vector_stores.retrieve(made.id) == made
    changed = await sdk.vector_stores.update(made.id, name="facts", metadata={"team": "blue"}, expires_after=None)
    assert (changed.name, changed.metadata, changed.expires_at) == ("facts", {"team": "blue"}, None)
    once = {"Idempotency-Key": "second"}
    second = await sdk.vector_stores.create(extra_headers=once)
    assert (await sdk.vector_stores.create(extra_headers=once)).id == second.id
    assert [each.id async for each in sdk.vector_stores.list(limit=1)] == [second.id, made.id]
    assert [each.id async for each in sdk.vector_stores.list(order="asc", after=made.id)] == [second.id]
    assert (await sdk.vector_stores.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        await sdk.vector_stores.retrieve(made.id)


async def test_a_file_is_copied_changed_and_taken_out(sdk: AsyncOpenAI) -> None:
    file = await uploaded(sdk)
    store = await sdk.vector_stores.create(
        file_ids=[file],
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}},
    )

    async def is_whole() -> bool:
        return (await sdk.vector_stores.files.retrieve(file, vector_store_id=store.id)).usage_bytes == len(TEXT)

    await eventually(is_whole)
    found = await sdk.vector_stores.files.retrieve(file, vector_store_id=store.id)
    # Its text is there, its vectors are not.
    assert (found.status, found.vector_store_id, found.last_error) == ("in_progress", store.id, None)
    assert found.chunking_strategy is not None
    assert found.chunking_strategy.type == "static"
    assert found.chunking_strategy.static.max_chunk_size_tokens == 200
    filling = await sdk.vector_stores.retrieve(store.id)
    assert (filling.status, filling.file_counts.in_progress, filling.usage_bytes) == ("in_progress", 1, len(TEXT))
    parts = await sdk.vector_stores.files.content(file, vector_store_id=store.id)
    assert "".join(part.text or "" for part in parts.data) == TEXT

    attributes: dict[str, str | float | bool] = {"year": 2026, "kind": "notes", "draft": False}
    changed = await sdk.vector_stores.files.update(file, vector_store_id=store.id, attributes=attributes)
    assert changed.attributes == attributes
    # Attached again, it stays as it is.
    again = await sdk.vector_stores.files.create(store.id, file_id=file)
    assert (again.attributes, again.created_at) == (attributes, found.created_at)

    assert (await sdk.vector_stores.files.delete(file, vector_store_id=store.id)).deleted
    with pytest.raises(openai.NotFoundError, match=file):
        await sdk.vector_stores.files.retrieve(file, vector_store_id=store.id)
    empty = await sdk.vector_stores.retrieve(store.id)
    assert (empty.status, empty.usage_bytes, empty.file_counts.total) == ("completed", 0, 0)
    assert (await sdk.files.retrieve(file)).bytes == len(TEXT)
    # A file that is deleted is in no store any more.
    await sdk.vector_stores.files.create(store.id, file_id=file)
    await sdk.files.delete(file)
    assert [each async for each in sdk.vector_stores.files.list(store.id)] == []


async def test_a_batch_is_listed_and_cancelled(sdk: AsyncOpenAI) -> None:
    files = [await uploaded(sdk, f"notes-{number}.md", f"{number}: {TEXT}") for number in range(5)]
    store = await sdk.vector_stores.create()
    batch = await sdk.vector_stores.file_batches.create(store.id, file_ids=files[:3], attributes={"kind": "old"})
    assert (batch.status, batch.file_counts.total) == ("in_progress", 3)
    other = await sdk.vector_stores.file_batches.create(
        store.id, files=[{"file_id": file, "attributes": {"name": file}} for file in files[2:]]
    )
    # One of them was on its way already, and stays what it is.
    assert other.file_counts.total == 2
    listed = [each.id async for each in sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)]
    assert listed == files[2::-1]
    all_of_them = [each.id async for each in sdk.vector_stores.files.list(store.id, order="asc", limit=2)]
    assert all_of_them == files

    cancelled = await sdk.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 3)
    states = {each.id: each.status async for each in sdk.vector_stores.files.list(store.id)}
    assert [states[file] for file in files] == ["cancelled"] * 3 + ["in_progress"] * 2
    only = [each.id async for each in sdk.vector_stores.files.list(store.id, filter="cancelled", limit=1)]
    assert only == files[2::-1]
    assert await sdk.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id) == cancelled
    # What was cancelled may be attached again.
    again = await sdk.vector_stores.files.create(store.id, file_id=files[0])
    assert again.status == "in_progress"


async def test_what_a_lost_gateway_left_in_the_book_alone_is_copied_once_somebody_looks(
    sdk: AsyncOpenAI, settings: Settings
) -> None:
    file = await uploaded(sdk)
    store = await sdk.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1})
    assert (await sdk.vector_stores.search(store.id, query="anything?")).data == []
    valkey = connect(settings.valkey)
    acknowledger = Acknowledger(valkey, settings.valkey)
    book = Book(valkey, acknowledger, settings.gateway.libraries)
    # Entered, and never asked for.
    place = Place(settings.mesh.tenant_default, store.id.removeprefix("vs_"))
    await book.enter(place, Attachment(file=file.removeprefix("file-"), mark="0" * 16, create_ms=1))
    await acknowledger.aclose()
    await valkey.aclose()

    async def is_whole() -> bool:
        return (await sdk.vector_stores.retrieve(store.id)).usage_bytes == len(TEXT)

    await eventually(is_whole)


async def test_what_cannot_be_is_refused_by_name(http: httpx.AsyncClient, sdk: AsyncOpenAI) -> None:
    file = await uploaded(sdk)
    store = f"/v1/vector_stores/{(await sdk.vector_stores.create()).id}"

    async def refused(path: str, body: object, status: int = 400) -> tuple[str, str]:
        answer = await http.post(path, json=body)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        return error["param"], error["code"]

    static = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 101}}
    for path, body, expected in (
        ("/v1/vector_stores", {"color": "red"}, ("color", "unknown_parameter")),
        ("/v1/vector_stores", {"name": "a" * 257}, ("name", "invalid_field")),
        ("/v1/vector_stores", {"metadata": {"isthmus.a": "b"}}, ("metadata.isthmus.a", "invalid_field")),
        (
            "/v1/vector_stores",
            {"expires_after": {"anchor": "created_at", "days": 1}},
            ("expires_after.anchor", "invalid_value"),
        ),
        (f"{store}/files", {}, ("file_id", "missing_required_parameter")),
        (
            f"{store}/files",
            {"file_id": file, "chunking_strategy": static},
            ("chunking_strategy.static.chunk_overlap_tokens", "invalid_field"),
        ),
        (
            f"{store}/files",
            {"file_id": file, "chunking_strategy": {"type": "static"}},
            ("chunking_strategy.static", "missing_required_parameter"),
        ),
        (f"{store}/files", {"file_id": file, "attributes": {"a": [1]}}, ("attributes[...]", "invalid_type")),
        (f"{store}/files", {"file_id": file, "attributes": {"a": "b" * 513}}, ("attributes.a", "invalid_field")),
        (f"{store}/file_batches", {}, ("file_ids", "missing_required_parameter")),
        (f"{store}/file_batches", {"file_ids": []}, ("file_ids", "invalid_field")),
        (f"{store}/search", {"query": ""}, ("query", "invalid_field")),
        (f"{store}/search", {"query": "a", "rewrite_query": True}, ("rewrite_query", "unsupported_parameter")),
        (f"{store}/search", {"query": "a", "max_num_results": 51}, ("max_num_results", "invalid_value")),
        (f"{store}/search", {"query": "a", "filters": {"type": "like"}}, ("filters.type", "invalid_field")),
    ):
        assert await refused(path, body) == expected
    missing = (f"{store}/files", {"file_id": "file-unknown"}), (f"{store}/file_batches", {"file_ids": [file, "x"]})
    assert [await refused(path, body, 404) for path, body in missing] == [
        ("file_id", "not_found"),
        ("file_ids[1]", "not_found"),
    ]
    assert await refused("/v1/vector_stores", {"file_ids": ["x"]}, status=404) == ("file_ids[0]", "not_found")
    assert await refused("/v1/vector_stores/vs_x/search", {"query": "a"}, 404) == ("vector_store_id", "not_found")
    for path in ("/v1/vector_stores/x", f"{store}/files/x", f"{store}/files/{file}", f"{store}/file_batches/x"):
        assert (await http.get(path)).status_code == 404
    assert (await http.get(f"{store}/files", params={"filter": "done"})).status_code == 400
    # Nothing was half made on the way.
    assert [each async for each in sdk.vector_stores.files.list(store.rpartition("/")[2])] == []
