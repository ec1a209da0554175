"""`/v1/files` by OpenAI's own SDK, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from redis.asyncio import Redis

from services.config import AccessSettings, LibrariesSettings, Settings
from tests.support.api_keys import new_key
from tests.support.eventually import eventually
from tests.support.mesh import Mesh

TEXT = "The isthmus is narrow here, and so is the straße.\n" * 20_000


async def test_a_file_comes_back_as_it_was_uploaded(sdk: AsyncOpenAI) -> None:
    made = await sdk.files.create(file=("notes.md", TEXT.encode()), purpose="assistants")
    assert (made.filename, made.bytes, made.purpose) == ("notes.md", len(TEXT.encode()), "assistants")
    assert made.expires_at is None
    assert await sdk.files.retrieve(made.id) == made
    content = await sdk.files.content(made.id)
    assert content.text == TEXT
    assert content.response.headers["content-type"] == "text/markdown"

    brief = await sdk.files.create(
        file=("rows.csv", b"a,b\n1,2\n"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    assert brief.expires_at == brief.created_at + 3_600
    third = await sdk.files.create(file=("last.txt", b"x"), purpose="assistants")
    assert [each.id async for each in sdk.files.list(limit=1)] == [third.id, brief.id, made.id]
    assert [each.id async for each in sdk.files.list(order="asc")] == [made.id, brief.id, third.id]
    assert [each.id async for each in sdk.files.list(order="asc", after=made.id)] == [brief.id, third.id]
    assert [each.id async for each in sdk.files.list(purpose="batch")] == [brief.id]

    for each in (made, brief, third):
        assert (await sdk.files.delete(each.id)).deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        await sdk.files.retrieve(made.id)
    assert [each async for each in sdk.files.list()] == []


async def test_what_cannot_be_a_file_is_refused_and_leaves_nothing(http: httpx.AsyncClient, sdk: AsyncOpenAI) -> None:
    async def refused(status: int = 400, **form: Any) -> tuple[str, str, str]:
        answer = await http.post("/v1/files", **form)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        return error["param"], error["code"], error["message"]

    def with_file(content: bytes, name: str = "notes.txt", **data: str) -> dict[str, Any]:
        return {"files": {"file": (name, content)}, "data": {"purpose": "assistants", **data}}

    # Far enough in that some of it is in the store by then.
    long = b"a" * 600_000
    param, code, message = await refused(**with_file(long + b"\xff\xfe rest"))
    assert (param, code) == ("file", "invalid_file")
    assert "byte 600000 is not UTF-8" in message
    assert "byte 600003 is 0" in (await refused(**with_file(long + b"abc\0")))[2]
    assert (await refused(**with_file(b"%PDF-1.7", "paper.pdf")))[:2] == ("file", "unsupported_file")
    assert (await refused(**with_file(b"")))[:2] == ("file", "invalid_file")
    assert (await refused(**with_file(b"text", color="red")))[:2] == ("color", "unknown_parameter")
    assert (await refused(files={"file": ("a.txt", b"text")}))[:2] == ("purpose", "missing_required_parameter")
    assert (await refused(json={"purpose": "assistants"}))[1] == "invalid_content_type"
    assert (await http.get("/v1/files", params={"limit": 0})).status_code == 400
    assert (await http.get("/v1/files", params={"before": "file-a"})).json()["error"]["code"] == "unsupported_parameter"
    for path in ("/v1/files/file-unknown", "/v1/files/nonsense", "/v1/files/file-unknown/content"):
        assert (await http.get(path)).status_code == 404
    assert [each async for each in sdk.files.list()] == []


class TestBounds:
    @pytest.fixture
    def bounds(self) -> dict[str, Any]:
        """Small files, and little patience."""
        return {"libraries": LibrariesSettings(file_bytes_max=1_000_000, upload_idle_ms_max=300)}

    async def test_a_file_that_is_too_large_or_too_slow_is_given_up(self, mesh: Mesh, sdk: AsyncOpenAI) -> None:
        with pytest.raises(openai.APIStatusError, match="file_bytes_max") as caught:
            await sdk.files.create(file=("large.txt", b"a" * 1_000_001), purpose="assistants")
        assert caught.value.status_code == 413
        async with half_an_upload(mesh) as (reader, _):
            status = await reader.readline()
            assert status.split()[1] == b"408"
        assert [each async for each in sdk.files.list()] == []


async def test_who_goes_away_leaves_nothing_of_a_file(mesh: Mesh, valkey: Redis) -> None:
    async def is_there() -> bool:
        return bool([key async for key in valkey.scan_iter("isthmus:{local/file.*:log")])

    async with half_an_upload(mesh):
        await eventually(is_there)
    await eventually(lambda: _not(is_there))


async def _not(found: Callable[[], Awaitable[bool]]) -> bool:
    return not await found()


@asynccontextmanager
async def half_an_upload(mesh: Mesh) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """An upload of which no more comes than its first 900 kB."""
    host, _, port = mesh.http_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    writer.write(head + b"content-length: 950000\r\n\r\n" + part + b"a" * 900_000)
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


class TestTenants:
    @pytest.fixture
    def bounds(self) -> dict[str, Any]:
        """Keys are wanted."""
        return {"access": AccessSettings(mode="keys", cache_ms_max=50)}

    async def test_a_file_and_a_store_are_their_tenants_alone(self, mesh: Mesh, settings: Settings) -> None:
        def sdk_with(key: str) -> AsyncOpenAI:
            return AsyncOpenAI(base_url=f"{mesh.http_url}/v1", api_key=key, max_retries=0)

        ours, theirs = await new_key(settings, tenant="acme"), await new_key(settings, tenant="other")
        async with sdk_with(ours) as sdk, sdk_with(theirs) as other:
            file = await sdk.files.create(file=("notes.md", b"a secret"), purpose="assistants")
            store = await sdk.vector_stores.create(name="ours")
            for call in (
                lambda: other.files.retrieve(file.id),
                lambda: other.files.content(file.id),
                lambda: other.files.delete(file.id),
                lambda: other.vector_stores.retrieve(store.id),
                lambda: other.vector_stores.search(store.id, query="secret"),
                lambda: other.vector_stores.delete(store.id),
                lambda: other.vector_stores.create(file_ids=[file.id]),
            ):
                with pytest.raises(openai.NotFoundError):
                    await call()
            assert [each async for each in other.files.list()] == []
            assert [each async for each in other.vector_stores.list()] == []
            assert (await sdk.files.content(file.id)).content == b"a secret"
