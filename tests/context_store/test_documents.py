"""Documents: streamed, cut the same however they come, resumed where they broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import document_pb2, fragment_pb2

from services.config import Settings
from tests.context_store.client import StoreClient, refusal
from tests.context_store.conftest import StartShard
from tests.support.eventually import WAIT_S_MAX, eventually

TEXT = ("In the beginning was the word. And it was long; " * 40 + "\n\n" + "世界 🦋 " * 300) * 20
DATA = TEXT.encode()


async def document(store: StoreClient, name: str) -> document_pb2.Document:
    return await store.stub.GetDocument(api.GetDocumentRequest(key=store.key, document=name))


async def pieces(store: StoreClient, name: str) -> list[fragment_pb2.Fragment]:
    suffix = f"/documents/{name}"
    return [one for one in await store.fragments() if one.document.endswith(suffix)]


@pytest.mark.parametrize("chunk", [997, 100_000])
async def test_a_document_comes_back_as_it_went_in(store: StoreClient, chunk: int) -> None:
    await store.create()
    done = await store.write("d", DATA, chunk)
    assert (done.state, done.committed_bytes) == (document_pb2.Document.STATE_COMPLETE, len(DATA))
    found = await pieces(store, "d")
    assert "".join(one.text for one in found) == TEXT
    assert [one.part for one in found] == list(range(done.fragment_count))
    assert (found[0].sequence, found[-1].sequence) == (done.first_sequence, done.last_sequence)
    assert max(len(one.text.encode()) for one in found) <= 8_192
    assert {one.author for one in found} == {"d.txt"}
    assert await document(store, "d") == done


async def test_fragments_do_not_depend_on_chunks_or_on_breaks(store: StoreClient) -> None:
    await store.create()
    await store.write("a", DATA, 100_000)
    cut_off = store.stub.WriteDocument(store.parts("b", DATA[:50_001], 777, end=False))
    code, reason, metadata, _ = await refusal(cut_off)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DOCUMENT_INCOMPLETE")
    kept = await document(store, "b")
    assert kept.state == document_pb2.Document.STATE_RECEIVING
    assert 50_001 - 8_192 <= kept.committed_bytes == int(metadata["committed_bytes"]) <= 50_001
    await store.write("b", DATA, 3_333, offset=kept.committed_bytes)
    texts = [[one.text for one in await pieces(store, name)] for name in ("a", "b")]
    assert texts[0] == texts[1]


async def test_the_end_again_is_the_same_document(store: StoreClient) -> None:
    await store.create()
    done = await store.write("d", DATA)
    assert await store.write("d", DATA, offset=len(DATA)) == done
    longer = store.stub.WriteDocument(store.parts("d", DATA + b"more", offset=len(DATA)))
    code, reason, metadata, _ = await refusal(longer)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DOCUMENT_OFFSET")
    assert metadata["committed_bytes"] == str(len(DATA))
    assert (await document(store, "d")) == done


async def test_an_empty_document_is_one(store: StoreClient) -> None:
    await store.create()
    done = await store.write("d", b"")
    assert (done.state, done.fragment_count) == (document_pb2.Document.STATE_COMPLETE, 0)


async def test_a_gap_is_refused_with_the_place_to_resume(store: StoreClient) -> None:
    await store.create()
    code, reason, metadata, _ = await refusal(store.stub.WriteDocument(store.parts("d", DATA, offset=5)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DOCUMENT_OFFSET")
    assert metadata["committed_bytes"] == "0"


async def test_an_end_that_does_not_match_is_refused(store: StoreClient) -> None:
    await store.create()

    async def parts() -> AsyncIterator[api.WriteDocumentRequest]:
        async for part in store.parts("d", b"four", end=False):
            yield part
        end = document_pb2.DocumentPart.End(size_bytes=5)
        yield api.WriteDocumentRequest(part=document_pb2.DocumentPart(end=end))

    assert (await refusal(store.stub.WriteDocument(parts())))[1] == "DOCUMENT_OFFSET"
    await store.write("d", b"four")


@pytest.mark.parametrize("bad", [b"\xff", b"\xe4\xb8", b"\x80" * 9_000], ids=["a byte", "half a character", "many"])
async def test_bad_utf8_is_refused_with_its_place(store: StoreClient, bad: bytes) -> None:
    await store.create()
    good = "gut ß ".encode() * 5_000
    code, reason, metadata, _ = await refusal(store.stub.WriteDocument(store.parts("d", good + bad, 10_001)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_UTF8")
    assert metadata["offset"] == str(len(good))
    kept = await document(store, "d")
    assert str(kept.committed_bytes) == metadata["committed_bytes"]
    done = await store.write("d", good, offset=kept.committed_bytes)
    assert "".join(one.text for one in await pieces(store, "d")).encode() == good
    assert done.state == document_pb2.Document.STATE_COMPLETE


@pytest.mark.parametrize("order", [["chunk"], [], ["header", "header"]], ids=["no header", "nothing", "two headers"])
async def test_a_stream_out_of_order_is_refused(store: StoreClient, order: list[str]) -> None:
    await store.create()
    header = document_pb2.DocumentPart(header=document_pb2.DocumentPart.Header(document_id="d"))
    chunk = document_pb2.DocumentPart(chunk=document_pb2.DocumentPart.Chunk(data=b"x"))

    async def parts() -> AsyncIterator[api.WriteDocumentRequest]:
        for kind in order:
            yield api.WriteDocumentRequest(key=store.key, part=header if kind == "header" else chunk)

    assert (await refusal(store.stub.WriteDocument(parts())))[:2] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
    )


async def test_a_document_beyond_its_bound_is_refused(start_shard: StartShard, settings: Settings) -> None:
    bounded = settings.store.model_copy(update={"document_bytes_max": 1_000})
    store = await start_shard(settings.model_copy(update={"store": bounded}))
    await store.create()
    assert (await refusal(store.stub.WriteDocument(store.parts("d", b"x" * 1_001))))[1] == "INVALID_FIELD"
    await store.write("d", b"x" * 1_000)


async def test_two_streams_of_one_document_do_not_mix(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()
    results = await asyncio.gather(*(one.write("d", DATA, 20_000) for one in stores), return_exceptions=True)
    done = [one for one in results if isinstance(one, document_pb2.Document)]
    lost = [one for one in results if isinstance(one, grpc.aio.AioRpcError)]
    assert len(done) + len(lost) == 2
    assert {one.code() for one in lost} <= {grpc.StatusCode.FAILED_PRECONDITION}
    if not done:
        kept = await document(stores[0], "d")
        await stores[0].write("d", DATA, offset=kept.committed_bytes)
    assert "".join(one.text for one in await pieces(stores[1], "d")) == TEXT


async def test_documents_and_turns_go_side_by_side_on_two_shards(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()

    async def turns() -> None:
        for number in range(10):
            await stores[1].turn(f"r{number}", f"question {number}", reply=f"answer {number}")

    await asyncio.gather(stores[0].write("d", DATA, 5_000), turns())
    assert "".join(one.text for one in await pieces(stores[1], "d")) == TEXT
    said = [one.text for one in await stores[0].fragments() if not one.document]
    assert said == [text for n in range(10) for text in (f"question {n}", f"answer {n}")]
    for number in range(10):
        turn = await stores[1].stub.GetTurn(api.GetTurnRequest(key=stores[1].key, turn=number + 1))
        assert turn.output_text == f"answer {number}"


async def test_a_caller_that_goes_away_leaves_a_prefix(store: StoreClient) -> None:
    await store.create()
    sent = asyncio.Event()

    async def endless() -> AsyncIterator[api.WriteDocumentRequest]:
        async for part in store.parts("d", DATA * 9, 100_000, end=False):
            yield part
        sent.set()
        await asyncio.Event().wait()

    call = store.stub.WriteDocument(endless())
    await asyncio.wait_for(sent.wait(), WAIT_S_MAX)

    async def committed() -> int:
        return (await document(store, "d")).committed_bytes

    await eventually(lambda: _found(store))
    call.cancel()
    kept = await committed()
    await store.write("d", DATA * 9, offset=kept)
    assert "".join(one.text for one in await pieces(store, "d")) == TEXT * 9


async def _found(store: StoreClient) -> bool:
    try:
        return (await document(store, "d")).committed_bytes > 0
    except grpc.aio.AioRpcError:
        return False
