"""Summaries: committed against the log, once, and asked for when segments close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from docket import Docket
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import summary_pb2

from services import jobs
from services.config import Settings
from tests.context_store.client import TOKENIZER, StoreClient, refusal
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually


@pytest_asyncio.fixture
async def queue(settings: Settings) -> AsyncIterator[Docket]:
    async with jobs.docket(settings) as queue:
        queue.register(jobs.summarise_segment)
        yield queue


async def asked_for(queue: Docket) -> set[str]:
    snapshot = await queue.snapshot()
    return {execution.key for execution in [*snapshot.future, *snapshot.running]}


async def test_a_summary_is_committed_once(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()
    await stores[0].append("one", "two", "three")
    request = await stores[0].summarise(1, 2)
    answers = await asyncio.gather(*(stores[n % 2].stub.CommitSummary(request) for n in range(6)))
    assert sorted(answer.created for answer in answers) == [False] * 5 + [True]
    assert [(await one.get()).summary_count for one in stores] == [1, 1]


async def test_a_summary_of_other_fragments_is_refused(store: StoreClient) -> None:
    await store.create()
    await store.append("one", "two", "three")
    request = await store.summarise(1, 2)
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=1))
    code, reason, _, _ = await refusal(store.stub.CommitSummary(request))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SUMMARY_SOURCE_CHANGED")
    beyond = await store.summarise(2, 4)
    assert (await refusal(store.stub.CommitSummary(beyond)))[1] == "SUMMARY_SOURCE_CHANGED"
    assert (await store.get()).summary_count == 0


async def test_an_open_turn_is_not_summarised(store: StoreClient) -> None:
    await store.create()
    await store.append("one")
    opened = await store.open("two")
    request = await store.summarise(1, 2)
    assert (await refusal(store.stub.CommitSummary(request)))[1] == "SUMMARY_SOURCE_CHANGED"
    await store.commit(opened, "three")
    assert (await store.stub.CommitSummary(request)).created


async def test_a_summary_out_of_shape_is_refused(store: StoreClient) -> None:
    await store.create()
    await store.append("one", "two")
    long = await store.summarise(1, 2, text="x" * 65_000)
    long.summary.sentences.add(text="y" * 1_000, sequence=1)
    backwards = await store.summarise(2, 2)
    backwards.summary.last_sequence = 1
    for request in (long, backwards):
        assert (await refusal(store.stub.CommitSummary(request)))[1] == "INVALID_FIELD"


async def test_counts_of_the_sessions_own_tokenizer_are_kept(start_shard: StartShard) -> None:
    store, other = await start_shard(), await start_shard()
    await store.create()
    await store.turn("r1", "hello", reply="hi")
    request = await store.summarise(1, 2)
    request.summary.tokenizer = TOKENIZER
    request.counts.append(summary_pb2.TokenCount(sequence=1, tokens=2))
    await store.stub.CommitSummary(request)
    foreign = await store.summarise(1, 1)
    foreign.summary.tokenizer = b"another"
    foreign.counts.append(summary_pb2.TokenCount(sequence=2, tokens=1_000))
    await store.stub.CommitSummary(foreign)
    for shard in (store, other):
        assert [(one.tokens, one.tokens_exact) for one in await shard.fragments()] == [(2, True), (9, False)]


async def test_the_first_counts_of_a_session_without_a_turn_decide_its_tokenizer(start_shard: StartShard) -> None:
    store, other = await start_shard(), await start_shard()
    await store.create()
    await store.append("hello", "well")
    for sequence, tokenizer in ((1, TOKENIZER), (2, b"another")):
        request = await store.summarise(sequence, sequence)
        request.summary.tokenizer = tokenizer
        request.counts.append(summary_pb2.TokenCount(sequence=sequence, tokens=3))
        await store.stub.CommitSummary(request)
    for shard in (store, other):
        assert [(one.tokens, one.tokens_exact) for one in await shard.fragments()] == [(3, True), (10, False)]


async def test_closed_segments_are_announced_and_only_they(store: StoreClient, queue: Docket) -> None:
    await store.create()
    await store.append("x" * 6_000, "y" * 6_000)
    assert not await asked_for(queue)
    opened = await store.open("z" * 600)
    assert not await asked_for(queue)
    await store.commit(opened, "done")
    wanted = jobs.segment_key("acme", "s1", 1, 3)
    await eventually(lambda: _asked(queue, wanted))
    await store.append("more")
    assert await asked_for(queue) == {wanted}


async def test_a_document_is_announced_while_it_comes(store: StoreClient, queue: Docket) -> None:
    await store.create()
    done = await store.write("d", b"Many words. " * 20_000)
    # Two fragments fill a segment; the last fragment is what was left.
    segments = [(first, first + 1) for first in range(1, done.fragment_count - 1, 2)]
    wanted = {jobs.segment_key("acme", "s1", *segment) for segment in segments}

    async def all_asked() -> bool:
        return await asked_for(queue) == wanted

    await eventually(all_asked)


@pytest.mark.foreign_keys("elsewhere:*")
async def test_what_was_missed_is_announced_when_the_session_is_loaded(
    start_shard: StartShard, settings: Settings, queue: Docket
) -> None:
    deaf = settings.model_copy(update={"mesh": settings.mesh.model_copy(update={"name": "elsewhere"})})
    store = await start_shard(deaf)
    await store.create()
    await store.append("x" * 8_000, "y" * 8_000, "x" * 8_000, "y" * 8_000)
    await store.stub.CommitSummary(await store.summarise(1, 2))
    assert not await asked_for(queue)
    cold = await start_shard()
    await cold.get()
    await eventually(lambda: _asked(queue, jobs.segment_key("acme", "s1", 3, 4)))
    assert await asked_for(queue) == {jobs.segment_key("acme", "s1", 3, 4)}


async def test_a_segment_is_announced_again_when_its_summary_is_erased(store: StoreClient, queue: Docket) -> None:
    await store.create()
    await store.append("x" * 8_000, "y" * 8_000)
    key = jobs.segment_key("acme", "s1", 1, 2)
    await eventually(lambda: _asked(queue, key))
    await store.stub.CommitSummary(await store.summarise(1, 2))
    await queue.cancel(key)
    assert not await asked_for(queue)
    await store.stub.DeleteFragment(api.DeleteFragmentRequest(key=store.key, sequence=1))
    await eventually(lambda: _asked(queue, key))


async def _asked(queue: Docket, key: str) -> bool:
    return key in await asked_for(queue)
