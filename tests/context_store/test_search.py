"""Searches of documents: by words at once, by vectors once they are there, on whichever shard is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import redis
from google.protobuf import struct_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import search_pb2
from isthmus.session.v1 import session_pb2

from services.config import Settings
from services.passages import Passage, PassageSource, passages
from tests.context_store.client import StoreClient, refusal
from tests.context_store.conftest import StartShard
from tests.context_store.test_document_resources import attributes, delete, write
from tests.context_store.test_export import exported, imported
from tests.support.eventually import eventually
from tests.support.mesh import changed

EMBEDDER = "letters"
DIMENSIONS = 26

ROADS = "The road to the harbour is closed in winter. Lorries take the bridge.\n\n" * 5
BREAD = "Bread needs flour, water and salt. The baker kneads it before dawn.\n\n" * 5
STARS = "A telescope gathers light. Stars are far and old.\n\n" * 5


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How often a text has each letter: an embedder that needs no model."""
    counts = np.array([text.lower().count(chr(97 + letter)) for letter in range(DIMENSIONS)], np.float32)
    return counts / max(1.0, float(np.linalg.norm(counts)))


async def cut(store: StoreClient, name: str) -> tuple[bytes, list[Passage]]:
    """The source digest and the passages of a document, as the compressor makes them."""
    document = await store.stub.GetDocument(api.GetDocumentRequest(key=store.key, document=name))
    how = document.passage_tokens_max, document.passage_overlap_tokens
    request = api.ReadFragmentsRequest(
        key=store.key, first_sequence=document.first_sequence, last_sequence=document.last_sequence
    )
    found = [
        fragment
        async for response in store.stub.ReadFragments(request)
        for fragment in response.fragments
        if fragment.document == document.name
    ]
    source = PassageSource(*how)
    for fragment in found:
        source.add(fragment.digest)
    return source.digest(), list(passages([(one.sequence, one.text) for one in found], *how))


async def commit_request(
    store: StoreClient, name: str, first: int = 0, last: int | None = None, embedder: str = EMBEDDER
) -> api.CommitVectorsRequest:
    digest, found = await cut(store, name)
    vectors = [vector(one.text).astype("<f2").tobytes() for one in found[first:last]]
    return api.CommitVectorsRequest(
        key=store.key,
        document=name,
        source_digest=digest,
        embedder=embedder,
        dimensions=DIMENSIONS,
        passage_count=len(found),
        first_passage=first,
        vectors=b"".join(vectors),
    )


async def embed(store: StoreClient, name: str) -> int:
    request = await commit_request(store, name)
    return (await store.stub.CommitVectors(request)).embedded_count


def search_request(store: StoreClient, query: str, **options: Any) -> api.SearchDocumentsRequest:
    return api.SearchDocumentsRequest(key=store.key, query=query, **options)


def by_vector(query: str) -> dict[str, Any]:
    return {"vector": vector(query).tobytes(), "embedder": EMBEDDER}


async def search(store: StoreClient, query: str, **options: Any) -> api.SearchDocumentsResponse:
    return await store.stub.SearchDocuments(search_request(store, query, **options))


def documents(response: api.SearchDocumentsResponse) -> list[str]:
    return list(dict.fromkeys(passage.document for passage in response.passages))


async def library(store: StoreClient) -> StoreClient:
    """A library with three documents."""
    made = store.about("library.l1")
    await made.create()
    for name, text, year in (("roads", ROADS, 2024), ("bread", BREAD, 2025), ("stars", STARS, 2026)):
        await write(made, name, text.encode(), attributes=attributes(year=year, kind=name), display_name=f"{name}.txt")
    return made


async def test_words_find_a_passage_at_once(store: StoreClient) -> None:
    shelf = await library(store)
    answer = await search(shelf, "Which bridges do lorries take?")
    assert answer.words_only
    best = answer.passages[0]
    assert (best.document, best.display_name, best.text) == ("roads", "roads.txt", ROADS)
    assert dict(best.attributes) == {"year": 2024.0, "kind": "roads"}
    assert 0 < best.score <= 1
    assert (best.first_sequence, best.start_byte) == (1, 0)
    assert answer.revision == 3
    assert not (await search(shelf, "xylophone")).passages
    assert not (await search(shelf.about("library.l1"), "lorries", score_min=1.0)).passages[1:]


async def test_vectors_find_what_words_do_not(start_shard: StartShard) -> None:
    one, other = await start_shard(), await start_shard()
    shelf = await library(one)
    elsewhere = other.about("library.l1")
    query = "brd flr wtr bkr knds"
    assert not (await search(elsewhere, query, **by_vector(query))).passages
    for name in ("roads", "bread", "stars"):
        assert await embed(shelf, name) == 1
    for asked in (shelf, elsewhere):
        answer = await search(asked, "bread flour water salt kneads before dawn", **by_vector(BREAD))
        assert not answer.words_only
        assert documents(answer)[0] == "bread"
        assert documents(await search(asked, query, **by_vector(BREAD)))[0] == "bread"
    other_model = await search(shelf, "telescope", vector=vector("x").tobytes(), embedder="another")
    assert other_model.words_only
    assert documents(other_model) == ["stars"]


async def test_a_text_without_vectors_is_found_among_others(store: StoreClient) -> None:
    shelf = await library(store)
    await embed(shelf, "roads")
    await embed(shelf, "stars")
    answer = await search(shelf, "the baker's bread", **by_vector("the baker's bread"))
    assert not answer.words_only
    assert documents(answer)[0] == "bread"


async def test_a_filter_says_what_is_searched(store: StoreClient) -> None:
    shelf = await library(store)
    operator = search_pb2.AttributeComparison
    query = "bread, bridges and telescopes"

    def compared(key: str, how: Any, value: Any) -> search_pb2.AttributeFilter:
        made = struct_pb2.Struct()
        made.update({"value": value})
        comparison = operator(key=key, operator=how, value=made.fields["value"])
        return search_pb2.AttributeFilter(comparison=comparison)

    def joined(how: Any, *filters: search_pb2.AttributeFilter) -> search_pb2.AttributeFilter:
        return search_pb2.AttributeFilter(junction=search_pb2.AttributeJunction(operator=how, filters=filters))

    late = compared("year", operator.OPERATOR_GTE, 2025)
    assert set(documents(await search(shelf, query))) == {"roads", "bread", "stars"}
    assert set(documents(await search(shelf, query, filter=late))) == {"bread", "stars"}
    some = compared("kind", operator.OPERATOR_IN, ["bread", "roads"])
    both = joined(search_pb2.AttributeJunction.OPERATOR_AND, late, some)
    assert documents(await search(shelf, query, filter=both)) == ["bread"]
    either = joined(search_pb2.AttributeJunction.OPERATOR_OR, late, some)
    assert len(documents(await search(shelf, query, filter=either))) == 3
    # What is changed is searched as it is now, on the next call.
    changed = api.UpdateDocumentRequest(key=shelf.key, document="stars", attributes=attributes(year=1990))
    await shelf.stub.UpdateDocument(changed)
    assert documents(await search(shelf, query, filter=late)) == ["bread"]

    deep = late
    for _ in range(4):
        deep = joined(search_pb2.AttributeJunction.OPERATOR_AND, deep)
    for wrong, field in (
        (deep, "filter.junction.filters"),
        (compared("year", operator.OPERATOR_GT, True), "filter.comparison.value"),
        (compared("year", operator.OPERATOR_IN, 3), "filter.comparison.value"),
        (joined(search_pb2.AttributeJunction.OPERATOR_AND, compared("a", operator.OPERATOR_EQ, [1])), "filters"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=field.replace("[", r"\[")) as raised:
            await search(shelf, query, filter=wrong)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_deleted_is_found_no_more_and_what_is_new_is(start_shard: StartShard) -> None:
    one, other = await start_shard(), await start_shard()
    shelf, elsewhere = await library(one), other.about("library.l1")
    await embed(shelf, "bread")
    assert documents(await search(elsewhere, "bread", **by_vector("bread")))[0] == "bread"
    await delete(shelf, "bread")
    assert "bread" not in documents(await search(elsewhere, "bread", **by_vector("bread")))
    await write(shelf, "bread", STARS.encode())
    assert not (await search(elsewhere, "flour")).passages
    assert set(documents(await search(elsewhere, "telescope"))) == {"stars", "bread"}
    await shelf.delete()
    assert (await refusal(elsewhere.stub.SearchDocuments(search_request(elsewhere, "telescope"))))[1] == "NOT_FOUND"


async def test_an_erased_fragment_of_a_users_document_is_not_found(store: StoreClient) -> None:
    await store.create()
    await write(store, "d", STARS.encode())
    assert documents(await search(store, "telescope")) == ["d"]
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=1))
    assert not (await search(store, "telescope")).passages


async def test_a_long_document_is_found_by_the_passage(store: StoreClient) -> None:
    shelf = store.about("library.l1")
    await shelf.create()
    text = ("Nothing happens here. " * 300 + "\n\n") * 10 + "The lighthouse burns. " + "Nothing happens here. " * 3_000
    await write(shelf, "long", text.encode(), passage_tokens_max=200, passage_overlap_tokens=50)
    _, found = await cut(shelf, "long")
    assert len(found) > 100
    for first in range(0, len(found), 50):
        await shelf.stub.CommitVectors(await commit_request(shelf, "long", first, first + 50))
    answer = await search(shelf, "lighthouse", limit=3, **by_vector("lighthouse"))
    assert len(answer.passages) == 3
    best = answer.passages[0]
    assert "The lighthouse burns." in best.text
    data = text.encode()
    assert data[best.start_byte : best.start_byte + len(best.text.encode())].decode() == best.text


async def test_vectors_are_committed_in_order_once(start_shard: StartShard) -> None:
    one, other = await start_shard(), await start_shard()
    shelf, elsewhere = one.about("library.l1"), other.about("library.l1")
    await shelf.create()
    made = await write(shelf, "d", ROADS.encode(), passage_tokens_max=100, passage_overlap_tokens=0)
    assert (made.passage_count, made.embedded_count) == (0, 0)
    first, second = await commit_request(shelf, "d", 0, 1), await commit_request(shelf, "d", 1)
    assert first.passage_count > 1
    # Ahead of what is there: where to go on.
    assert (await elsewhere.stub.CommitVectors(second)).embedded_count == 0
    for _ in range(2):
        assert (await shelf.stub.CommitVectors(first)).embedded_count == 1
    assert (await elsewhere.stub.CommitVectors(second)).embedded_count == first.passage_count
    document = await shelf.stub.GetDocument(api.GetDocumentRequest(key=shelf.key, document="d"))
    assert (document.embedder, document.embedded_count) == (EMBEDDER, document.passage_count)
    anew = await commit_request(shelf, "d", 0, 1, embedder="another")
    assert (await shelf.stub.CommitVectors(anew)).embedded_count == 1
    failed = api.CommitVectorsRequest()
    failed.CopyFrom(anew)
    failed.vectors, failed.error.code, failed.error.message = b"", "invalid_text", "no"
    assert (await shelf.stub.CommitVectors(failed)).embedded_count == 1
    document = await shelf.stub.GetDocument(api.GetDocumentRequest(key=shelf.key, document="d"))
    assert (document.error.code, document.embedder) == ("invalid_text", "another")


async def test_vectors_of_another_text_are_refused(store: StoreClient) -> None:
    shelf = store.about("library.l1")
    await shelf.create()
    await write(shelf, "d", ROADS.encode())
    old = await commit_request(shelf, "d")
    await delete(shelf, "d")
    assert (await refusal(shelf.stub.CommitVectors(old)))[1] == "NOT_FOUND"
    await write(shelf, "d", BREAD.encode())
    code, reason, *_ = await refusal(shelf.stub.CommitVectors(old))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SUMMARY_SOURCE_CHANGED")
    wrong: Sequence[tuple[dict[str, Any], str]] = (
        ({"vectors": b"x"}, "vectors"),
        ({"vectors": np.full(DIMENSIONS, np.inf, "<f2").tobytes()}, "vectors"),
        ({"first_passage": 9}, "first_passage"),
        ({"vectors": b""}, "vectors"),
    )
    for change, field in wrong:
        request = await commit_request(shelf, "d")
        for name, value in change.items():
            setattr(request, name, value)
        with pytest.raises(grpc.aio.AioRpcError, match=field) as raised:
            await shelf.stub.CommitVectors(request)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_indexes_have_a_bound_in_memory(start_shard: StartShard, settings: Settings) -> None:
    retrieval = settings.store.retrieval.model_copy(update={"index_bytes_max": 1 << 16})
    bounded = settings.store.model_copy(update={"retrieval": retrieval})
    store = await start_shard(settings.model_copy(update={"store": bounded}))
    for number in range(3):
        shelf = store.about(f"library.l{number}")
        await shelf.create()
        text = " ".join(f"word{number}x{each}" for each in range(2_000))
        await write(shelf, "d", text.encode())
    # Each fits, not all: those that were used longest ago are built again when they are asked for.
    for number in (0, 1, 2, 0):
        assert documents(await search(store.about(f"library.l{number}"), f"word{number}x7")) == ["d"]
    large = store.about("library.large")
    await large.create()
    await write(large, "d", " ".join(f"word{each}" for each in range(20_000)).encode())
    metadata = (await refusal(large.stub.SearchDocuments(search_request(large, "word7"))))[2]
    assert metadata["quota"] == "index_bytes_max"


async def test_a_session_without_documents_has_nothing_to_find(store: StoreClient) -> None:
    shelf = store.about("library.l1")
    await shelf.create()
    answer = await search(shelf, "anything", **by_vector("anything"))
    assert (list(answer.passages), answer.words_only, answer.revision) == ([], True, 0)
    # What is still being received is not found.
    await refusal(shelf.stub.WriteDocument(shelf.parts("open", ROADS.encode() * 100, end=False)))
    assert not (await search(shelf, "harbour")).passages


async def test_vectors_leave_with_a_cold_library_and_come_back(start_shard: StartShard, settings: Settings) -> None:
    store = await start_shard(changed(settings, "tiering", janitor_interval_ms=20, idle_ms=100))
    shelf = await library(store)
    for name in ("roads", "bread", "stars"):
        await embed(shelf, name)

    async def is_cold() -> bool:
        return (await shelf.get()).tier == session_pb2.TIER_OBJECT

    await eventually(is_cold, 30)
    with redis.Redis.from_url(settings.valkey.url) as client:
        assert not client.exists("isthmus:{acme/library.l1}:vectors")
    answer = await search(shelf, "kneads", **by_vector(BREAD))
    assert (documents(answer)[0], answer.words_only) == ("bread", False)


async def test_what_a_deletion_finds_of_documents_is_told(store: StoreClient) -> None:
    shelf = await library(store)
    await embed(shelf, "roads")
    await search(shelf, "harbour")
    receipt = await shelf.delete()
    erased = {(one.place, one.kind) for one in receipt.erasures}
    assert {("valkey", "documents"), ("valkey", "vectors"), ("store-1", "passages")} <= erased


async def test_a_library_moves_with_all_but_its_vectors(store: StoreClient) -> None:
    shelf = await library(store)
    await embed(shelf, "bread")
    copy = store.about("library.l2")
    records = await exported(shelf)
    await imported(copy, records)
    get = api.GetDocumentRequest(key=copy.key, document="bread")
    moved = await copy.stub.GetDocument(get)
    assert (moved.name, dict(moved.attributes)["kind"]) == ("sessions/library.l2/documents/bread", "bread")
    assert (moved.embedder, moved.passage_count, moved.passage_tokens_max) == ("", 0, 800)
    answer = await search(copy, "flour", **by_vector("flour"))
    assert (documents(answer), answer.words_only) == (["bread"], True)
    records[1].document.passage_tokens_max = 1
    with pytest.raises(grpc.aio.AioRpcError, match=r"records\[1\].document.passage_tokens_max"):
        await imported(store.about("library.l3"), records)
