"""Sessions of the mesh's own: apart from those of users in ids, lists and quotas, and like them in everything else."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1 import context_service_pb2 as api

from services import collections
from services.config import Settings, load_settings
from tests.context_store.client import StoreClient, refusal
from tests.context_store.conftest import StartShard

ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(st.sampled_from(["", *collections.NAMES]), ids)
def test_an_id_says_its_collection(collection: str, own: str) -> None:
    session = collections.member(collection, own)
    assert (collections.collection_of(session), collections.own_id(session)) == (collection, own)


async def listed(store: StoreClient, collection: str = "") -> list[str]:
    page = await store.stub.ListSessions(api.ListSessionsRequest(tenant=store.key.tenant, collection=collection))
    return [session.name for session in page.sessions]


async def test_lists_are_a_collections_own(store: StoreClient) -> None:
    for session in ("s1", "library.s1", "library.s2", "file.s1", "bookmark.s1"):
        await store.about(session).create()
    assert await listed(store) == ["sessions/s1"]
    assert await listed(store, "library") == ["sessions/library.s1", "sessions/library.s2"]
    assert await listed(store, "file") == ["sessions/file.s1"]
    await store.about("library.s1").delete()
    assert await listed(store, "library") == ["sessions/library.s2"]
    assert (await store.about("s1").get()).name == "sessions/s1"


async def test_a_page_token_is_of_one_collection(store: StoreClient) -> None:
    for session in ("library.a", "library.b", "file.a", "file.b"):
        await store.about(session).create()
    request = api.ListSessionsRequest(tenant="acme", collection="library", page_size=1)
    first = await store.stub.ListSessions(request)
    request.page_token = first.next_page_token
    assert [one.name for one in (await store.stub.ListSessions(request)).sessions] == ["sessions/library.b"]
    request.collection = "file"
    code, reason, *_ = await refusal(store.stub.ListSessions(request))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize("session", ["shelf.a", "library.", ".a", "library.a.b", "library/a"])
async def test_there_are_no_other_collections(store: StoreClient, session: str) -> None:
    code, reason, *_ = await refusal(store.about(session).create())
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_each_collection_has_a_quota(start_shard: StartShard, settings: Settings) -> None:
    quota = load_settings(quota={"tenant_sessions_max": 1, "tenant_libraries_max": 2}).quota
    store = await start_shard(settings.model_copy(update={"quota": quota}))
    for session in ("s1", "library.a", "library.b", "file.a", "file.b", "bookmark.a", "bookmark.b"):
        await store.about(session).create()
    *_, metadata, _ = await refusal(store.about("library.c").create())
    assert metadata["quota"] == "tenant_libraries_max"
    *_, metadata, _ = await refusal(store.about("s2").create())
    assert metadata["quota"] == "tenant_sessions_max"


async def test_a_collections_session_has_no_forks(store: StoreClient) -> None:
    library = store.about("library.a")
    await library.create()
    code, reason, *_ = await refusal(library.fork("s1"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
