"""Valkey's memory: what is idle leaves early, and what is new is refused, before Valkey itself refuses writes."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import session_pb2

from context_store.log.keys import Keys
from context_store.tiering.memory_watch import MemoryWatch, Pressure
from services.config import Settings, TieringSettings
from services.errors import IsthmusError
from services.valkey import NodeMemory, memory
from tests.context_store.client import refusal
from tests.context_store.conftest import StartShard
from tests.context_store.tier_parts import Parts, parts
from tests.support.eventually import eventually
from tests.support.mesh import changed


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from([0, 100])), max_size=3), st.booleans())
def test_pressure_lasts_from_high_to_low(nodes: list[tuple[int, int]], was_high: bool) -> None:
    settings = TieringSettings(valkey_low_ratio=0.5, valkey_high_ratio=0.7, valkey_refuse_ratio=0.9)
    now = Pressure(is_high=was_high).next([NodeMemory("n", used, bound) for used, bound in nodes], settings)
    most = max((used for used, bound in nodes if bound), default=0)
    assert now.is_full == (most > 90)
    assert now.is_high == (most > (50 if was_high else 70))


async def filled(shard: Parts) -> list[Keys]:
    """Sessions of 200 KB each, the least recently used first."""
    many = [Keys("acme", f"s{number:02}") for number in range(12)]
    for number, keys in enumerate(many):
        text = "".join(Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=200_000))
        await shard.create(keys)
        await shard.append(keys, text, "r1")
    return many


async def are_cold(shard: Parts, many: list[Keys]) -> list[bool]:
    return [one.tier == session_pb2.TIER_OBJECT for one in await shard.log.listed(many) if one]


async def test_idle_sessions_leave_early_until_there_is_room(settings: Settings, valkey: Any) -> None:
    """The least recently used go, and only as many as it takes."""
    base = (await memory(valkey))[0].used_bytes
    one_by_one = changed(settings, "tiering", index_buckets_count=1, janitor_page_count_max=1, idle_ms_min=1)
    async with parts(one_by_one) as shard:
        many = await filled(shard)
    used = (await memory(valkey))[0].used_bytes
    # Over the bound by about a third of what the sessions take.
    ratios = {"valkey_low_ratio": (base + (used - base) * 2 / 3) / used, "valkey_high_ratio": 0.9}
    async with parts(changed(one_by_one, "tiering", valkey_bytes_max=used, **ratios)) as shard:
        await shard.janitor.round()
        cold = await are_cold(shard, many)
        assert any(cold)
        assert not all(cold)
        assert cold == sorted(cold, reverse=True), "others went before the least recently used"


async def test_a_valkey_that_refuses_writes_gets_room(settings: Settings, valkey: Any) -> None:
    async with parts(changed(settings, "tiering", idle_ms_min=1)) as shard:
        many = await filled(shard)
        await valkey.config_set("maxmemory", (await memory(valkey))[0].used_bytes * 3 // 4)
        try:
            with pytest.raises(IsthmusError, match="Valkey is full"):
                await shard.append(many[0], "more", "r2")
            await shard.janitor.round()
            assert any(await are_cold(shard, many))
            assert await shard.append(many[-1], "more", "r2") == "APPENDED"
        finally:
            await valkey.config_set("maxmemory", 0)


async def test_new_sessions_and_documents_are_refused_while_it_is_full(
    settings: Settings, start_shard: StartShard, valkey: Any
) -> None:
    watched = changed(settings, "tiering", janitor_interval_ms=20, idle_ms_min=60_000)
    store = await start_shard(watched)
    await store.create()
    used = (await memory(valkey))[0].used_bytes
    # The node's own bound, as an operator would set it: past the share that refuses, with room for what goes on.
    await valkey.config_set("maxmemory", used * 100 // 92)
    names = count()
    try:

        async def is_refused() -> bool:
            try:
                await store.about(f"n{next(names)}").create()
            except grpc.aio.AioRpcError:
                return True
            return False

        await eventually(is_refused)
        refused = [await refusal(store.about("one-more").create()), await refusal(store.write("d1", b"text"))]
        assert [reason for _, reason, _, _ in refused] == ["OVERLOADED"] * 2
        assert all(retry_after_ms for _, _, _, retry_after_ms in refused)
        # What is there goes on.
        await store.turn("r1", "hello")
    finally:
        await valkey.config_set("maxmemory", 0)

    async def is_taken() -> bool:
        try:
            await store.about("one-more").create()
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(is_taken)


def test_refusals_name_the_bound() -> None:

    watch = MemoryWatch(None, TieringSettings())  # type: ignore[arg-type]
    watch.admit("a new session")
    watch.pressure = Pressure("n1", 95, 100, True, True)
    with pytest.raises(IsthmusError, match=r"a new session.*95 of 100 bytes.*valkey_refuse_ratio"):
        watch.admit("a new session")
