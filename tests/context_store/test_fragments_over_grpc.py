"""The log as callers see it: append, list, stream, erase."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import fragment_pb2, message_pb2
from redis.asyncio import Redis

from services.digest import fragment_digest
from tests.context_store.client import StoreClient, refusal, user
from tests.context_store.conftest import StartShard

MIB = 1 << 20


def append_request(store: StoreClient, *texts: str, request_id: str = "") -> api.AppendMessagesRequest:
    return api.AppendMessagesRequest(key=store.key, messages=[user(text) for text in texts], request_id=request_id)


async def test_appended_messages_are_in_the_next_window(store: StoreClient) -> None:
    await store.create()
    made = await store.append("one", "two")
    assert [(one.sequence, one.text, one.turn) for one in made] == [(1, "", 0), (2, "", 0)]
    opened = await store.open("three")
    assert [item.text for item in opened.manifest.new_items] == ["one", "two", "three"]


async def test_a_fragment_says_all_about_itself(store: StoreClient) -> None:
    await store.create()
    message = message_pb2.Message(role=message_pb2.ROLE_TOOL, text="42", author="calculator", pinned=True)
    await store.append(message)
    (shown,) = await store.fragments()
    assert shown.name == "sessions/s1/fragments/1"
    assert (shown.kind, shown.role) == (fragment_pb2.FRAGMENT_KIND_MESSAGE, message_pb2.ROLE_TOOL)
    assert (shown.text, shown.author, shown.pinned, shown.part) == ("42", "calculator", True, 0)
    assert (shown.tokens, shown.tokens_exact) == (9, False)
    assert shown.digest == fragment_digest(shown.kind, shown.role, "calculator", 0, "42")
    assert shown.create_time.seconds > 0


async def test_a_request_appends_once_on_any_shard(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()
    request = append_request(stores[0], "one", "two", request_id="a1")
    answers = await asyncio.gather(*(stores[n % 2].stub.AppendMessages(request) for n in range(10)))
    assert {tuple(one.sequence for one in answer.fragments) for answer in answers} == {(1, 2)}
    assert len(await stores[0].fragments()) == 2
    other = append_request(stores[0], "else", request_id="a1")
    assert (await refusal(stores[1].stub.AppendMessages(other)))[:2] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
    )
    assert (await refusal(stores[1].open("else", request_id="a1")))[1] == "REQUEST_ID_REUSED"


async def test_too_much_text_in_one_request_is_refused_whole(store: StoreClient) -> None:
    await store.create()
    many = append_request(store, *["x" * MIB] * 2, "y")
    code, reason, _, _ = await refusal(store.stub.AppendMessages(many))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert (await refusal(store.open(*["x" * MIB] * 2, "y")))[1] == "INVALID_FIELD"
    assert (await store.get()).revision == 0


@pytest.mark.parametrize(("size", "descending"), [(1, False), (3, True), (7, False), (8, True)])
async def test_the_log_is_listed_in_pages(store: StoreClient, size: int, descending: bool) -> None:
    await store.create()
    await store.append(*(str(number) for number in range(1, 8)))
    found: list[str] = []
    token = ""
    while True:
        page = await store.stub.ListFragments(
            api.ListFragmentsRequest(key=store.key, page_size=size, page_token=token, descending=descending)
        )
        found.extend(one.text for one in page.fragments)
        token = page.next_page_token
        if not token:
            break
    assert found == [str(number) for number in (range(7, 0, -1) if descending else range(1, 8))]


async def test_a_list_begins_where_it_is_told(store: StoreClient) -> None:
    await store.create()
    await store.append(*(str(number) for number in range(1, 8)))
    up = await store.stub.ListFragments(api.ListFragmentsRequest(key=store.key, start_sequence=6))
    down = await store.stub.ListFragments(api.ListFragmentsRequest(key=store.key, start_sequence=2, descending=True))
    assert [one.text for one in up.fragments] == ["6", "7"]
    assert [one.text for one in down.fragments] == ["2", "1"]
    page = await store.stub.ListFragments(api.ListFragmentsRequest(key=store.key, page_size=1))
    turned = api.ListFragmentsRequest(key=store.key, page_token=page.next_page_token, descending=True)
    assert (await refusal(store.stub.ListFragments(turned)))[1] == "INVALID_PAGE_TOKEN"


async def test_pages_and_streams_are_bounded_by_bytes(store: StoreClient) -> None:
    await store.create()
    data = b"many words in a row " * 200_000
    await store.write("d", data)
    page = await store.stub.ListFragments(api.ListFragmentsRequest(key=store.key, page_size=1000))
    assert page.next_page_token
    assert page.ByteSize() < 2 * MIB
    assert "".join(one.text for one in await store.fragments()).encode() == data
    request = api.ReadFragmentsRequest(key=store.key, first_sequence=1, last_sequence=1 << 40)
    responses = [response async for response in store.stub.ReadFragments(request)]
    assert max(response.ByteSize() for response in responses) <= MIB
    assert "".join(one.text for response in responses for one in response.fragments).encode() == data


async def test_a_range_is_streamed_without_what_is_void(store: StoreClient) -> None:
    await store.create()
    await store.append("one", "two", "three", "four")
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=2))
    request = api.ReadFragmentsRequest(key=store.key, first_sequence=2, last_sequence=3)
    responses = [response async for response in store.stub.ReadFragments(request)]
    assert [one.text for response in responses for one in response.fragments] == ["three"]
    backwards = api.ReadFragmentsRequest(key=store.key, first_sequence=3, last_sequence=2)
    assert (await refusal(store.stub.ReadFragments(backwards).read()))[1] == "INVALID_FIELD"


async def test_erasing_leaves_no_text_behind(start_shard: StartShard, valkey: Redis) -> None:
    store, other = await start_shard(), await start_shard()
    await store.create()
    await store.append("keep", "secret", "last")
    assert (await other.get()).text_bytes == 14
    erase = api.DeleteFragmentRequest(key=store.key, sequence=2)
    await store.stub.DeleteFragment(erase)
    await other.stub.DeleteFragment(erase)
    for shard in (store, other, await start_shard()):
        assert [one.text for one in await shard.fragments()] == ["keep", "last"]
        session = await shard.get()
        assert (session.text_bytes, session.revision) == (8, 3)
    assert await valkey.xlen("isthmus:{acme/s1}:log") == 2
    assert (await store.append("next"))[0].sequence == 4
    missing = api.DeleteFragmentRequest(key=store.key, sequence=9)
    assert (await refusal(store.stub.DeleteFragment(missing)))[1] == "NOT_FOUND"


async def test_the_last_fragment_erased_is_found_missing_by_a_cold_shard(start_shard: StartShard) -> None:
    store = await start_shard()
    await store.create()
    await store.append("keep", "secret")
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=2))
    cold = await start_shard()
    assert (await cold.get()).revision == 2
    opened = await cold.open("next")
    assert [item.text for item in opened.manifest.new_items] == ["keep", "next"]
    assert opened.turn.first_input_sequence == 3


async def test_nothing_is_erased_under_an_open_turn(store: StoreClient) -> None:
    await store.create()
    await store.append("keep")
    opened = await store.open("now")
    erase = api.DeleteFragmentRequest(key=store.key, sequence=1)
    assert (await refusal(store.stub.DeleteFragment(erase)))[1] == "TURN_IN_PROGRESS"
    await store.commit(opened, "done")
    await store.stub.DeleteFragment(erase)


async def test_a_stored_body_that_cannot_be_read_is_data_loss(start_shard: StartShard, valkey: Redis) -> None:
    store = await start_shard()
    await store.create()
    await store.append("text")
    log = "isthmus:{acme/s1}:log"
    entries: Any = await valkey.xrange(log)
    ((_, fields),) = entries
    await valkey.delete(log)
    await valkey.xadd(log, {b"f": fields[b"f"], b"b": b"rubbish", b"n": fields[b"n"]}, id="1-0")
    cold = await start_shard()
    call = cold.stub.ListFragments(api.ListFragmentsRequest(key=store.key))
    assert (await refusal(call))[:2] == (grpc.StatusCode.DATA_LOSS, "CORRUPT")
