"""Sessions as a resource: create, get, list, update, delete."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf import field_mask_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import session_pb2
from redis.asyncio import Redis

from services.config import Settings
from tests.context_store.client import StoreClient, refusal
from tests.context_store.conftest import StartShard


async def test_a_session_keeps_what_it_was_made_with(store: StoreClient) -> None:
    made = await store.create(display_name="Mine", labels={"a": "b"}, window_tokens_max=5_000, revision=99)
    read = await store.get()
    assert read == made
    assert (read.name, read.display_name, dict(read.labels)) == ("sessions/s1", "Mine", {"a": "b"})
    assert (read.window_tokens_max, read.revision, read.epoch) == (5_000, 0, 1)
    again = store.stub.CreateSession(api.CreateSessionRequest(tenant="acme", session_id="s1"))
    assert (await refusal(again))[:2] == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_one_of_many_creations_wins(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    calls = [stores[n % 2].create(display_name=str(n)) for n in range(8)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    (made,) = [answer for answer in answers if isinstance(answer, session_pb2.Session)]
    assert (await stores[0].get()).display_name == made.display_name


async def test_a_session_sums_up_its_log(store: StoreClient) -> None:
    await store.create()
    await store.turn("r1", "hello", reply="wörld")
    session = await store.get()
    assert (session.revision, session.turn_count, session.open_turn) == (2, 1, 0)
    assert session.text_bytes == len("hello") + len("wörld".encode())
    assert session.tokens == 10 + 10
    await store.open("more", request_id="r2")
    assert (await store.get()).open_turn == 2


async def test_an_unknown_session_is_not_found_whoever_asks(store: StoreClient) -> None:
    await store.create()
    other = api.SessionKey(tenant="evil", session="s1")
    for key in (other, api.SessionKey(tenant="acme", session="none")):
        for call in (
            store.stub.GetSession(api.GetSessionRequest(key=key)),
            store.stub.DeleteSession(api.DeleteSessionRequest(key=key)),
            store.stub.UpdateSession(api.UpdateSessionRequest(key=key, session=session_pb2.Session())),
            store.stub.ListFragments(api.ListFragmentsRequest(key=key)),
            store.stub.ListTurns(api.ListTurnsRequest(key=key)),
            store.stub.GetDocument(api.GetDocumentRequest(key=key, document="d")),
        ):
            assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize(("count", "size"), [(5, 2), (4, 2), (3, 3), (1, 1), (0, 2)])
async def test_lists_page_by_id(store: StoreClient, count: int, size: int) -> None:
    names = [f"s{n}" for n in range(count)]
    for name in reversed(names):
        await store.stub.CreateSession(api.CreateSessionRequest(tenant="acme", session_id=name))
    await store.stub.CreateSession(api.CreateSessionRequest(tenant="other", session_id="theirs"))
    found: list[str] = []
    pages, token = 0, ""
    while True:
        page = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme", page_size=size, page_token=token))
        assert len(page.sessions) <= size
        found.extend(session.name for session in page.sessions)
        pages, token = pages + 1, page.next_page_token
        if not token:
            break
    assert found == [f"sessions/{name}" for name in names]
    assert pages == max(1, -(-count // size))


async def test_pages_are_bounded_by_bytes(start_shard: StartShard, settings: Settings) -> None:
    small = settings.store.model_copy(update={"page_bytes_max": 65_536})
    store = await start_shard(settings.model_copy(update={"store": small}))
    labels = {f"label-{n}": "x" * 500 for n in range(10)}
    for n in range(40):
        await store.about(f"s{n:02}").create(labels=labels)
    found: list[str] = []
    page = api.ListSessionsResponse(next_page_token="")
    while not found or page.next_page_token:
        page = await store.stub.ListSessions(
            api.ListSessionsRequest(tenant="acme", page_size=1000, page_token=page.next_page_token)
        )
        assert page.ByteSize() < 2 * 65_536
        found += [one.name for one in page.sessions]
    assert found == [f"sessions/s{n:02}" for n in range(40)]


async def test_a_page_token_of_another_tenant_is_refused(store: StoreClient) -> None:
    for tenant in ("acme", "evil"):
        for name in ("a", "b"):
            await store.stub.CreateSession(api.CreateSessionRequest(tenant=tenant, session_id=name))
    page = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme", page_size=1))
    for token in (page.next_page_token, "rubbish", "AAAA"):
        call = store.stub.ListSessions(api.ListSessionsRequest(tenant="evil", page_token=token))
        assert (await refusal(call))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_name_without_a_session_is_skipped(store: StoreClient, valkey: Redis) -> None:
    await store.create()
    await valkey.zadd("isthmus:sessions:acme", {"crashed-while-made": 0})
    page = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme"))
    assert [session.name for session in page.sessions] == ["sessions/s1"]


async def test_an_update_changes_what_its_mask_names(store: StoreClient) -> None:
    made = await store.create(display_name="old", labels={"a": "b"})
    new = session_pb2.Session(display_name="new", labels={"c": "d"}, window_tokens_max=9)
    mask = field_mask_pb2.FieldMask(paths=["display_name", "window_tokens_max"])
    request = api.UpdateSessionRequest(key=store.key, session=new, update_mask=mask)
    changed = await store.stub.UpdateSession(request)
    assert (changed.display_name, dict(changed.labels), changed.window_tokens_max) == ("new", {"a": "b"}, 9)
    assert changed.etag != made.etag
    unmasked = api.UpdateSessionRequest(key=store.key, session=session_pb2.Session(labels={"e": "f"}))
    changed = await store.stub.UpdateSession(unmasked)
    assert (changed.display_name, dict(changed.labels)) == ("new", {"e": "f"})
    cleared = api.UpdateSessionRequest(
        key=store.key, session=session_pb2.Session(), update_mask=field_mask_pb2.FieldMask(paths=["labels"])
    )
    assert not (await store.stub.UpdateSession(cleared)).labels


async def test_an_update_of_a_foreign_field_is_refused(store: StoreClient) -> None:
    await store.create()
    mask = field_mask_pb2.FieldMask(paths=["revision"])
    call = store.stub.UpdateSession(
        api.UpdateSessionRequest(key=store.key, session=session_pb2.Session(), update_mask=mask)
    )
    assert (await refusal(call))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_an_old_etag_is_refused(store: StoreClient) -> None:
    made = await store.create()
    for etag, name in ((made.etag, "first"), ("", "second")):
        session = session_pb2.Session(etag=etag, display_name=name)
        await store.stub.UpdateSession(api.UpdateSessionRequest(key=store.key, session=session))
    stale = api.UpdateSessionRequest(key=store.key, session=session_pb2.Session(etag=made.etag, display_name="late"))
    for call in (
        store.stub.UpdateSession(stale),
        store.stub.DeleteSession(api.DeleteSessionRequest(key=store.key, etag=made.etag)),
    ):
        assert (await refusal(call))[:2] == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    now = await store.get()
    await store.stub.DeleteSession(api.DeleteSessionRequest(key=store.key, etag=now.etag))


async def test_concurrent_updates_all_take_effect(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()
    await asyncio.gather(
        stores[0].stub.UpdateSession(
            api.UpdateSessionRequest(key=stores[0].key, session=session_pb2.Session(display_name="n"))
        ),
        stores[1].stub.UpdateSession(
            api.UpdateSessionRequest(key=stores[1].key, session=session_pb2.Session(window_tokens_max=7))
        ),
    )
    session = await stores[0].get()
    assert (session.display_name, session.window_tokens_max) == ("n", 7)


async def test_deleting_leaves_no_key_and_a_new_session_starts_anew(start_shard: StartShard, valkey: Redis) -> None:
    here, there = await start_shard(), await start_shard()
    await here.create()
    await there.turn("r1", "hello", reply="old")
    await here.turn("r2", "again")
    await here.write("doc", b"text")
    await here.stub.DeleteFragment(api.DeleteFragmentRequest(key=here.key, sequence=1))
    assert len([key async for key in valkey.scan_iter("isthmus:{acme/*")]) == 6
    await here.stub.DeleteSession(api.DeleteSessionRequest(key=here.key))
    assert [key async for key in valkey.scan_iter("isthmus:{acme/*")] == []
    assert await valkey.zcard("isthmus:sessions:acme") == 0
    await here.create()
    opened = await there.open("new", request_id="r1")
    assert [item.text for item in opened.manifest.new_items] == ["new"]
    assert (await there.get()).turn_count == 1
