"""A session's summaries, read straight from Valkey."""

from __future__ import annotations

from typing import cast

import zstandard
from isthmus.context.v1 import summary_pb2
from redis.asyncio import Redis

from context_store.log.fragments import estimate_tokens, split
from context_store.log.keys import Keys
from services.config import StoreSettings
from tests.support.eventually import eventually


def segment_count(text: str, settings: StoreSettings) -> int:
    """How many segments of a document the store closes: each by the fragment that fills it."""
    filled = count = 0
    for _, size in split(text, settings.fragment_bytes_max):
        filled += estimate_tokens(size)
        if filled >= settings.segment_tokens:
            filled, count = 0, count + 1
    return count


async def wait_for_summaries(valkey: Redis, tenant: str, session: str, count: int, timeout_s: float = 20.0) -> None:
    """Waits until a session has so many."""

    async def enough() -> bool:
        return await valkey.hlen(Keys(tenant, session).summaries) >= count

    await eventually(enough, timeout_s, f"{count} summaries")


async def read_summaries(valkey: Redis, tenant: str, session: str) -> list[summary_pb2.Summary]:
    """All of them, in the order of their spans."""
    bodies = await valkey.hvals(Keys(tenant, session).summary_bodies)
    found = [summary_pb2.Summary.FromString(zstandard.decompress(cast(bytes, body))) for body in bodies]
    return sorted(found, key=lambda summary: summary.first_sequence)


def assert_each_once(summaries: list[summary_pb2.Summary], count: int) -> None:
    """So many summaries, each of which starts where the one before it ended: nothing twice, nothing left out."""
    assert len(summaries) == count
    following = 1
    for summary in summaries:
        assert summary.first_sequence == following
        following = summary.last_sequence + 1
