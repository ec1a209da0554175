"""Quotas: what a session and a tenant may hold, and what a caller is told beyond it."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
import pytest
import redis
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2

from context_store.log.keys import Keys
from context_store.session.quotas import Sums, check_sums
from services.config import QuotaLimits, Settings, load_settings
from services.errors import IsthmusError, from_rpc_error
from tests.context_store.client import StoreClient
from tests.context_store.conftest import StartShard
from tests.context_store.test_export import exported, imported
from tests.support.eventually import eventually

bounds = st.integers(0, 10)
sums = st.builds(Sums, bounds, bounds)


@given(sums, sums, bounds)
def test_what_fits_is_taken_and_nothing_else(session: Sums, tenant: Sums, added: int) -> None:
    limits = QuotaLimits(session_bytes_max=3, tenant_bytes_max=6, session_tokens_max=4)
    fits = session.bytes + added <= 3 and session.tokens < 4 and tenant.bytes + added <= 6
    refusal: IsthmusError | None = None
    try:
        check_sums(limits, Keys("acme", "s1"), session, tenant, added)
    except IsthmusError as error:
        refusal = error
    assert (refusal is None) == fits
    if refusal:
        assert refusal.metadata["quota"] in refusal.message
        assert int(refusal.metadata["present"]) in (session.bytes, session.tokens, tenant.bytes)


def limited(settings: Settings, **quota: object) -> Settings:
    read = load_settings(quota={"usage_interval_ms": 20, **quota})
    return settings.model_copy(update={"quota": read.quota})


async def refused(call: Awaitable[object]) -> IsthmusError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(raised.value)
    assert error.reason == errors_pb2.ERROR_REASON_QUOTA_EXCEEDED
    details = dict(raised.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    assert any(detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR) for detail in status.details)
    return error


async def test_a_full_session_takes_no_more_but_the_reply_under_way(
    start_shard: StartShard, settings: Settings
) -> None:
    store = await start_shard(limited(settings, session_bytes_max=100))
    await store.create()
    opened = await store.open("x" * 90, request_id="r1")
    await store.commit(opened, "y" * 90)
    error = await refused(store.open("more", request_id="r2"))
    assert (error.metadata["quota"], error.metadata["bound"], error.metadata["present"]) == (
        "session_bytes_max", "100", "180"
    )  # fmt: skip
    assert error.quotas[0].subject == "sessions/s1"
    await refused(store.append("more"))
    await refused(store.write("book", b"more"))
    # What was taken before is answered again.
    assert (await store.open("x" * 90, request_id="r1")).outcome == api.OpenTurnResponse.OUTCOME_FINISHED
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=1))
    await store.open("z", request_id="r3", room=100_000)


async def test_an_append_that_was_taken_is_answered_again(start_shard: StartShard, settings: Settings) -> None:
    store = await start_shard(limited(settings, session_bytes_max=10))
    await store.create()
    said = store.open_request("0123456789").messages
    request = api.AppendMessagesRequest(key=store.key, messages=said, request_id="a1")
    first = await store.stub.AppendMessages(request)
    assert await store.stub.AppendMessages(request) == first


async def test_a_fork_counts_its_own_part(start_shard: StartShard, settings: Settings) -> None:
    store = await start_shard(limited(settings, session_bytes_max=200))
    await store.create()
    await store.turn("r1", "x" * 100, reply="y" * 100)
    fork = await store.fork("s2")
    await fork.turn("r2", "x" * 100, reply="y" * 100)
    await refused(fork.open("more", request_id="r3"))


async def test_a_tenant_has_so_many_sessions(start_shard: StartShard, settings: Settings) -> None:
    one = await start_shard(limited(settings, tenants={"acme": {"tenant_sessions_max": 2}}))
    other = await start_shard(limited(settings, tenants={"acme": {"tenant_sessions_max": 2}}))
    await one.about("a").create()
    await other.about("b").create()
    error = await refused(one.about("c").create())
    assert (error.metadata["quota"], error.metadata["present"]) == ("tenant_sessions_max", "2")
    await refused(one.about("a").fork("c"))
    with pytest.raises(grpc.aio.AioRpcError, match="ALREADY_EXISTS"):
        await one.about("a").create()
    await other.about("b").delete()
    await one.about("c").create()


async def test_a_tenants_text_is_summed_over_shards_and_sessions(start_shard: StartShard, settings: Settings) -> None:
    own = limited(settings, tenant_bytes_max=300)
    one, other = (await start_shard(own)).about("a"), (await start_shard(own)).about("b")
    await one.create()
    await other.create()
    await one.append("x" * 100)
    await other.append("x" * 100)
    client = redis.Redis.from_url(settings.valkey.url)

    def summed() -> int:
        return int(client.hget("isthmus:usage:acme", ":bytes") or 0)

    await eventually(lambda: summed() == 200)
    # Each knows the sum as of its own last write.
    await one.append("x" * 50)
    await eventually(lambda: summed() == 250)
    await eventually(lambda: _is_refused(one, "x" * 100))
    assert summed() == 250
    await other.delete()
    assert summed() == 150
    # Room that was made elsewhere is seen by the next sum.
    await eventually(lambda: _is_taken(one, "x" * 100))
    await eventually(lambda: summed() == 250)
    await one.delete()
    assert not client.exists("isthmus:usage:acme")
    client.close()


async def test_an_import_counts_and_ends_at_a_bound(start_shard: StartShard, settings: Settings) -> None:
    store = await start_shard(limited(settings, tenant_bytes_max=10_000, session_bytes_max=250))
    await store.create()
    await store.append("x" * 200)
    records = await exported(store)
    await imported(store.about("copy"), records)
    client = redis.Redis.from_url(settings.valkey.url)
    await eventually(lambda: client.hget("isthmus:usage:acme", ":bytes") == b"400")
    assert str(client.hget("isthmus:usage:acme", "copy")).startswith("b'200:")
    client.close()
    small = await start_shard(limited(settings, session_bytes_max=100))
    error = await refused(imported(small.about("other"), records))
    assert error.metadata["quota"] == "session_bytes_max"


async def _is_taken(store: StoreClient, text: str) -> bool:
    try:
        await store.append(text)
    except grpc.aio.AioRpcError as error:
        if from_rpc_error(error).reason != errors_pb2.ERROR_REASON_QUOTA_EXCEEDED:
            raise
        return False
    return True


async def _is_refused(store: StoreClient, text: str) -> bool:
    """Probes with a request that would pass the bound anyway."""
    try:
        await store.open(text, request_id="probe", lease_ms=50, room=1)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason == errors_pb2.ERROR_REASON_QUOTA_EXCEEDED
    return False
