"""Forks, exports, quotas and deletions where a session, its relatives and its tenant are on different nodes."""

from __future__ import annotations

import asyncio

import grpc
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub

from context_store.room import ContextStoreRoom
from services.config import Settings, load_settings
from services.lifecycle import RoomContext
from services.valkey import connect, scan_keys
from tests.context_store.client import StoreClient
from tests.context_store.test_export import exported, fill, imported


async def test_a_session_and_its_relatives_live_and_go(cluster_settings: Settings) -> None:
    quota = load_settings(quota={"tenant_sessions_max": 8, "tenant_bytes_max": 1 << 30, "usage_interval_ms": 10}).quota
    settings = cluster_settings.model_copy(update={"quota": quota})
    room = ContextStoreRoom(RoomContext(settings, "store-1", "127.0.0.1:0"))
    await room.start()
    async with grpc.aio.insecure_channel(room.address) as channel:
        store = StoreClient(ContextServiceStub(channel))
        await fill(store)
        forks = [await store.fork(f"fork-{number}", turn=1) for number in range(4)]
        for fork in forks:
            await fork.turn("mine", "my own", reply="part")
        copy = store.about("copy")
        await imported(copy, await exported(forks[0]))
        assert await copy.texts() == await forks[0].texts()
        receipt = await store.delete()
        assert len(receipt.forks) == len(forks)
        for fork in forks:
            assert await fork.texts() == ["my own", "part"]
        listed = await store.stub.ListSessions(api.ListSessionsRequest(tenant="acme"))
        assert len(listed.sessions) == 5
        await asyncio.gather(*(one.delete() for one in (*forks, copy)))
    await room.stop()
    client = connect(settings.valkey)
    left = [key async for key in scan_keys(client, "isthmus:*") if b"{members}" not in key]
    await client.aclose()
    assert [key for key in left if not key.startswith((b"isthmus:workers", b"isthmus:worker"))] == []
