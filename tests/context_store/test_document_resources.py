"""Documents as resources: listed, changed, read back, and erased so that their ids are free again."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import redis
from google.protobuf import struct_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import document_pb2

from services.config import Settings
from tests.context_store.client import StoreClient, refusal
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually

TEXT = ("The water in the isthmus is warm. 世界 " * 40 + "\n\n") * 200
DATA = TEXT.encode()


def attributes(**values: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


async def write(store: StoreClient, name: str, data: bytes = b"text", **header: Any) -> document_pb2.Document:
    async def parts() -> Any:
        part = document_pb2.DocumentPart(header=document_pb2.DocumentPart.Header(document_id=name, **header))
        yield api.WriteDocumentRequest(key=store.key, part=part)
        async for request in store.parts(name, data):
            if request.part.WhichOneof("part") != "header":
                yield request

    return await store.stub.WriteDocument(parts())


async def listed(store: StoreClient, **options: Any) -> list[str]:
    """The ids of all pages."""
    request, found = api.ListDocumentsRequest(key=store.key, **options), list[str]()
    while True:
        page = await store.stub.ListDocuments(request)
        found += [one.name.rpartition("/")[2] for one in page.documents]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def read(store: StoreClient, name: str, offset: int = 0) -> bytes:
    request = api.ReadDocumentRequest(key=store.key, document=name, offset=offset)
    data = b""
    async for response in store.stub.ReadDocument(request):
        assert response.offset == offset + len(data)
        data += response.data
    return data


def delete(store: StoreClient, name: str, etag: str = "") -> Any:
    return store.stub.DeleteDocument(api.DeleteDocumentRequest(key=store.key, document=name, etag=etag))


async def test_a_document_keeps_what_its_header_says(store: StoreClient) -> None:
    await store.create()
    made = await write(store, "d", attributes=attributes(year=2026, lang="en", draft=False), media_type="text/plain")
    assert (made.passage_tokens_max, made.passage_overlap_tokens) == (800, 400)
    again = await store.stub.GetDocument(api.GetDocumentRequest(key=store.key, document="d"))
    assert again == made
    assert dict(again.attributes) == {"year": 2026.0, "lang": "en", "draft": False}
    assert again.media_type == "text/plain"


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ({"attributes": attributes(**{str(each): 1 for each in range(17)})}, "part.header.attributes"),
        ({"attributes": attributes(**{"k" * 65: 1})}, "part.header.attributes"),
        ({"attributes": attributes(a="x" * 513)}, "part.header.attributes.a"),
        ({"attributes": attributes(a=[1])}, "part.header.attributes.a"),
        ({"attributes": attributes(a=None)}, "part.header.attributes.a"),
        ({"passage_tokens_max": 99}, "part.header.passage_tokens_max"),
        ({"passage_tokens_max": 100, "passage_overlap_tokens": 51}, "part.header.passage_overlap_tokens"),
    ],
)
async def test_a_header_that_cannot_be_is_refused_by_its_field(
    store: StoreClient, header: dict[str, Any], field: str
) -> None:
    await store.create()
    with pytest.raises(grpc.aio.AioRpcError, match=field) as raised:
        await write(store, "d", **header)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_lists_are_in_the_order_of_time_and_paged(store: StoreClient) -> None:
    await store.create()
    for name in ("b", "a", "d", "c"):
        await write(store, name)
    await refusal(store.stub.WriteDocument(store.parts("open", DATA, end=False)))
    assert await listed(store, page_size=2) == ["b", "a", "d", "c", "open"]
    assert await listed(store, page_size=3, descending=True) == ["open", "c", "d", "a", "b"]
    complete = document_pb2.Document.STATE_COMPLETE
    assert await listed(store, state=complete, page_size=1) == ["b", "a", "d", "c"]
    first = await store.stub.ListDocuments(api.ListDocumentsRequest(key=store.key, page_size=1))
    assert first.document_count == 5
    foreign = api.ListDocumentsRequest(key=store.key, page_token=first.next_page_token, descending=True)
    assert (await refusal(store.stub.ListDocuments(foreign)))[1] == "INVALID_PAGE_TOKEN"


async def test_attributes_change_under_an_etag(start_shard: StartShard) -> None:
    one, other = await start_shard(), await start_shard()
    await one.create()
    made = await write(one, "d", attributes=attributes(year=2026))
    assert await listed(other) == ["d"]
    request = api.UpdateDocumentRequest(key=one.key, document="d", attributes=attributes(lang="en"), etag=made.etag)
    changed = await one.stub.UpdateDocument(request)
    assert dict(changed.attributes) == {"lang": "en"}
    assert changed.etag != made.etag
    assert (await refusal(other.stub.UpdateDocument(request)))[1] == "ETAG_MISMATCH"
    page = await other.stub.ListDocuments(api.ListDocumentsRequest(key=one.key))
    assert list(page.documents) == [changed]
    request.document = "none"
    assert (await refusal(other.stub.UpdateDocument(request)))[1] == "NOT_FOUND"


async def test_a_document_is_read_back_from_any_byte(store: StoreClient) -> None:
    await store.create()
    await store.append("before")
    await write(store, "d", DATA)
    for offset in (0, 1, 70_001, len(DATA) - 1, len(DATA)):
        assert await read(store, "d", offset) == DATA[offset:]
    with pytest.raises(grpc.aio.AioRpcError, match="offset"):
        await read(store, "d", len(DATA) + 1)
    await write(store, "empty", b"")
    assert await read(store, "empty") == b""


async def test_a_deleted_documents_text_is_nowhere_and_its_id_is_free(start_shard: StartShard) -> None:
    one, other = await start_shard(), await start_shard()
    await one.create()
    await one.append("before")
    made = await write(one, "d", DATA)
    await one.append("after")
    assert await listed(other) == ["d"]
    assert (await refusal(delete(one, "d", "old")))[1] == "ETAG_MISMATCH"
    await delete(one, "d", made.etag)
    assert await one.texts() == await other.texts() == ["before", "after"]
    assert await listed(other) == []
    assert (await refusal(delete(other, "d")))[1] == "NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError, match="does not exist"):
        await read(one, "d")
    await write(other, "d", b"anew")
    assert await read(one, "d") == b"anew"


async def test_a_deletion_waits_for_the_turn_that_is_open(store: StoreClient) -> None:
    await store.create()
    await write(store, "d", DATA)
    opened = await store.open("hello")
    assert (await refusal(delete(store, "d")))[1] == "TURN_IN_PROGRESS"
    assert await read(store, "d") == DATA
    await store.commit(opened, "ok")
    await delete(store, "d")
    assert await store.texts() == ["hello", "ok"]


def gone(settings: Settings) -> bool:
    """Whether the deletion of the document has begun."""
    with redis.Redis.from_url(settings.valkey.url) as client:
        return bool(client.hget("isthmus:{acme/s1}:documents", "d:gone"))


async def test_a_deletion_that_breaks_off_is_gone_on_with(start_shard: StartShard, settings: Settings) -> None:
    small = settings.store.model_copy(update={"log_page_count_max": 10})
    store = await start_shard(settings.model_copy(update={"store": small}))
    await store.create()
    made = await write(store, "d", DATA)
    assert made.fragment_count > 20
    call = delete(store, "d")
    await eventually(lambda: gone(settings), timeout_s=5)
    call.cancel()
    # Nobody sees what is left of it, and whoever writes it anew finishes the deletion.
    assert await listed(store) == []
    await write(store, "d", b"anew")
    assert await store.texts() == ["anew"]


async def test_a_forks_documents_are_its_ancestors_until_it_changes_them(store: StoreClient) -> None:
    await store.create()
    await store.turn("r1", "hello")
    await write(store, "d", DATA, attributes=attributes(a=1))
    await write(store, "e", b"other")
    await store.turn("r2", "hello")
    fork = await store.fork("s2")
    assert await listed(fork) == ["d", "e"]
    assert await read(fork, "d") == DATA
    request = api.UpdateDocumentRequest(key=fork.key, document="d", attributes=attributes(a=2))
    assert dict((await fork.stub.UpdateDocument(request)).attributes) == {"a": 2.0}
    get = api.GetDocumentRequest(key=store.key, document="d")
    assert dict((await store.stub.GetDocument(get)).attributes) == {"a": 1.0}
    await delete(fork, "d")
    assert await listed(fork) == ["e"]
    assert await read(store, "d") == DATA
    await write(fork, "d", b"own")
    assert await read(fork, "d") == b"own"
    await delete(store, "e")
    assert await listed(fork) == ["d"]
