"""A replica over real gRPC: windows come by delta or from the shard, replies go out as they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.session.v1 import turn_pb2
from redis.asyncio import Redis

from services.config import Settings
from services.errors import IsthmusError
from services.lifecycle import State
from services.membership import View
from tests.inference.items import DOCUMENT, SUMMARY, SYSTEM, item, manifest, reply
from tests.inference.replica import Replica, Reply, error_of, running_replica
from tests.inference.shard import WindowShard, serve_windows
from tests.support.eventually import WAIT_S_MAX, eventually

HEADER_TOKENS = 6  # `<|im_end|>`, a newline, `<|im_start|>`, two for `assistant`, a newline


@pytest.fixture
async def shard(settings: Settings, valkey: Redis) -> AsyncIterator[WindowShard]:
    served = await serve_windows(settings, valkey)
    yield served
    await served.stop()


@pytest.fixture
async def replica(settings: Settings, shard: WindowShard, cache_dir: Path) -> AsyncIterator[Replica]:
    async with running_replica(settings, cache_dir) as running:
        yield running


def conversation(turns: int) -> list[window_pb2.WindowItem]:
    items = [item("You are terse.", SYSTEM, sequence=1)]
    for turn in range(turns):
        items.append(item(f"Question {turn}: what has changed since?", sequence=2 * turn + 2))
        items.append(reply(f"Answer {turn}: nothing but this line.", sequence=2 * turn + 3))
    return [*items, item("And now?", sequence=2 * turns + 2)]


async def test_a_first_turn_needs_no_shard(replica: Replica, shard: WindowShard) -> None:
    answer = await replica.generate(manifest(conversation(0)))
    assert answer.text
    assert answer.finished.finish_reason == turn_pb2.FINISH_REASON_STOP
    assert answer.finished.output_tokens == len(answer.ids) == 64
    assert answer.started.window_tokens == answer.started.new_tokens
    assert [count.sequence for count in answer.finished.counts] == [1, 2]
    assert shard.requests == []


async def test_a_next_turn_tokenises_its_delta_only(replica: Replica, shard: WindowShard) -> None:
    items = conversation(0)
    first = await replica.generate(manifest(items))
    items += [reply(first.text, sequence=3), item("Go on.", sequence=4)]
    second = await replica.generate(manifest(items, prefix=2))
    fresh = await replica.generate(manifest(items[-1:]), session="other")
    assert second.started.reused_tokens > first.started.window_tokens
    assert second.started.new_tokens < fresh.started.window_tokens
    # The engine found the last window; the prompt that it had then went on by the reply's header.
    assert first.finished.cached_tokens == 0
    assert second.finished.cached_tokens == first.started.window_tokens - HEADER_TOKENS
    assert [count.sequence for count in second.finished.counts] == [3, 4]
    assert shard.requests == []


async def test_the_same_window_again_is_there_already(replica: Replica, shard: WindowShard) -> None:
    items = conversation(2)
    first = await replica.generate(manifest(items), seed=7)
    again = await replica.generate(manifest(items, inline=False), seed=7)
    other = await replica.generate(manifest(items, inline=False), seed=8)
    assert again.text == first.text != other.text
    assert again.started.new_tokens == HEADER_TOKENS
    assert shard.requests == []


async def test_a_window_after_a_failed_turn_is_new_from_there_on(replica: Replica, shard: WindowShard) -> None:
    items = conversation(2)
    first = await replica.generate(manifest(items))
    items[-1] = item("Asked anew.", sequence=9)
    answer = await replica.generate(manifest(items))
    assert [count.sequence for count in answer.finished.counts] == [9]
    assert answer.text != first.text
    assert answer.text == (await replica.generate(manifest(items), session="other")).text


async def test_a_cold_replica_reads_the_window_from_the_shard(replica: Replica, shard: WindowShard) -> None:
    items = shard.windows["s"] = conversation(10)
    whole = await replica.generate(manifest(items), session="inline")
    pulled = await replica.generate(manifest(items, prefix=len(items) - 1))
    assert pulled.text == whole.text
    assert pulled.started.window_tokens == whole.started.window_tokens
    assert pulled.started.pulled_items == len(items)
    assert pulled.started.pulled_bytes > sum(len(each.text) for each in items)
    assert len(pulled.finished.counts) == len(items)


async def test_a_new_epoch_is_read_from_the_common_prefix_on(replica: Replica, shard: WindowShard) -> None:
    await replica.generate(manifest(conversation(10)))
    items = conversation(10)
    items[1:12] = [item("They spoke of what changed.", SYSTEM, SUMMARY, sequence=2)]
    shard.windows["s"] = items
    answer = await replica.generate(manifest(items, inline=False, epoch=2))
    assert answer.started.pulled_items == len(items) - 1
    assert [count.sequence for count in answer.finished.counts] == [each.first_sequence for each in items[2:]]
    longer = [*items, item("More.", sequence=40)]
    shard.windows["s"] = longer
    answer = await replica.generate(manifest(longer, inline=False, epoch=2))
    assert answer.started.pulled_items == 1


async def test_a_delta_that_does_not_lead_to_the_end_is_not_believed(replica: Replica, shard: WindowShard) -> None:
    items = shard.windows["s"] = conversation(3)
    await replica.generate(manifest(items[:-1]))
    wrong = manifest(items, prefix=len(items) - 1)
    wrong.new_items[0].CopyFrom(item("Something else.", sequence=9))
    answer = await replica.generate(wrong)
    assert answer.started.pulled_items == 1
    assert answer.text == (await replica.generate(manifest(items), session="other")).text


async def test_items_that_are_not_the_manifests_are_refused(replica: Replica, shard: WindowShard) -> None:
    items = conversation(3)
    shard.windows["s"] = [*items[:-1], item("Tampered with.", sequence=8)]
    error = await error_of(replica.generate(manifest(items, inline=False)))
    assert error.reason == errors_pb2.ERROR_REASON_CORRUPT
    forged = conversation(3)
    forged[2].text = "Forged."
    shard.windows["forged"] = forged
    error = await error_of(replica.generate(manifest(items, inline=False), session="forged"))
    assert error.reason == errors_pb2.ERROR_REASON_CORRUPT
    shard.windows["s"] = items
    assert (await replica.generate(manifest(items, inline=False))).text


async def test_another_shard_goes_on_where_one_died(
    replica: Replica, shard: WindowShard, settings: Settings, valkey: Redis
) -> None:
    second = await serve_windows(settings, valkey, "shard-2")
    view = View(valkey, settings.membership)
    await view.start()
    async with asyncio.timeout(WAIT_S_MAX):
        await view.wait_for("context_store", 2)
    items = conversation(10)
    for each in (shard, second):
        each.windows["s"] = items
        each.messages_until_death = 2
    answer = await replica.generate(manifest(items, inline=False))
    assert answer.started.pulled_items == len(items)
    assert [len(request.have) > 0 for request in shard.requests + second.requests].count(False) == 1
    await view.stop()
    await second.stop()


async def test_a_window_too_long_is_refused_with_its_exact_size(
    settings: Settings, shard: WindowShard, cache_dir: Path
) -> None:
    async with running_replica(settings, cache_dir, context_tokens_max=600) as replica:
        model = await replica.stub.GetModel(contract.GetModelRequest())
        items = [item("word " * 60, sequence=sequence) for sequence in range(1, 9)]
        counted = await replica.stub.CountTokens(contract.CountTokensRequest(items=items))
        error = await error_of(replica.generate(manifest(items), max_output_tokens=100))
        assert error.reason == errors_pb2.ERROR_REASON_WINDOW_OVERFLOW
        assert int(error.metadata["tokens"]) == sum(counted.tokens) > 400
        room = int(error.metadata["tokens_max"])
        assert room == 600 - 100 - model.overhead_tokens
        fitting = items[: room // counted.tokens[0]]
        answer = await replica.generate(manifest(fitting), max_output_tokens=100)
        assert answer.started.window_tokens == len(fitting) * counted.tokens[0] + model.overhead_tokens
        shard.windows["s"] = items * 20
        error = await error_of(replica.generate(manifest(items * 20, inline=False)))
        assert error.reason == errors_pb2.ERROR_REASON_WINDOW_OVERFLOW
        assert 1_600 < int(error.metadata["tokens"]) < 4_000
        error = await error_of(replica.generate(manifest(items), max_output_tokens=600))
        assert error.fields[0].field == "params.max_output_tokens"


async def test_stop_strings_and_lengths_end_a_reply(replica: Replica) -> None:
    window = manifest(conversation(1))
    whole = await replica.generate(window, seed=1)
    words = whole.text.split(" ")
    stopped = await replica.generate(window, seed=1, stop=[f" {words[8]} {words[9]}"])
    assert stopped.text == " ".join(words[:8])
    assert stopped.finished.finish_reason == turn_pb2.FINISH_REASON_STOP
    short = await replica.generate(window, seed=1, max_output_tokens=10)
    assert short.finished.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    assert short.finished.output_tokens == 10
    assert whole.text.startswith(short.text)


async def test_a_caller_that_goes_frees_the_engine(settings: Settings, cache_dir: Path) -> None:
    async with running_replica(settings, cache_dir, scripted_tokens_per_s=20, requests_running_max=1) as replica:
        call = replica.call(manifest(conversation(0)))
        assert (await call.read()).HasField("started")
        assert (await call.read()).HasField("delta")
        assert replica.engine.running == 1
        call.cancel()
        await eventually(lambda: replica.engine.running == 0)
        assert (await replica.generate(manifest(conversation(0)), max_output_tokens=1)).ids


async def test_requests_wait_for_their_place_and_are_refused_beyond_the_bound(
    settings: Settings, cache_dir: Path
) -> None:
    bounds = {"requests_running_max": 1, "requests_waiting_max": 1, "overload_retry_ms": 70}
    async with running_replica(settings, cache_dir, scripted_tokens_per_s=50, **bounds) as replica:
        running = replica.call(manifest(conversation(0)), "a")
        await running.read()
        others = [
            asyncio.create_task(error_or_reply(replica.generate(manifest(conversation(0)), session)))
            for session in ("b", "c")
        ]
        (refused,), (waiting,) = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        error = refused.result()
        assert isinstance(error, IsthmusError)
        assert (error.reason, error.retry_after_ms) == (errors_pb2.ERROR_REASON_OVERLOADED, 70)
        await eventually(lambda: replica.room.admission.queue.engine.waiting)
        assert replica.engine.running == 1
        running.cancel()
        answer = await waiting
        assert isinstance(answer, Reply)
        assert answer.finished.queue_ms > 0


async def error_or_reply(generating: Awaitable[Reply]) -> Reply | IsthmusError:
    try:
        return await generating
    except IsthmusError as error:
        return error


async def test_draining_finishes_what_runs_and_takes_nothing_new(settings: Settings, cache_dir: Path) -> None:
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(running_replica(settings, cache_dir, scripted_tokens_per_s=200))
        running = asyncio.create_task(replica.generate(manifest(conversation(0))))
        await eventually(lambda: replica.engine.running)
        draining = asyncio.create_task(replica.room.drain())
        await eventually(lambda: replica.context.lifecycle.state is State.DRAINING)
        refused = await error_of(replica.generate(manifest(conversation(0)), "b"))
        assert refused.reason == errors_pb2.ERROR_REASON_NOT_READY
        assert (await running).finished.output_tokens == 64
        await draining


async def test_counts_are_what_an_item_adds_to_a_window(replica: Replica) -> None:
    model = await replica.stub.GetModel(contract.GetModelRequest())
    items = [
        item("Hi", sequence=1),
        item("日本語 " * 50, kind=DOCUMENT, author="a.txt", sequence=2),
        reply("", sequence=3),
    ]
    counted = await replica.stub.CountTokens(contract.CountTokensRequest(items=items))
    answer = await replica.generate(manifest(items))
    assert answer.started.window_tokens == sum(counted.tokens) + model.overhead_tokens
    assert [count.tokens for count in answer.finished.counts] == list(counted.tokens)
    assert counted.tokenizer == model.tokenizer


async def test_the_model_that_embeds_counts_each_text_alone(replica: Replica) -> None:
    model = await replica.stub.GetModel(contract.GetModelRequest())
    items = [item("Hi", sequence=1), item("日本語 " * 50, kind=DOCUMENT, author="a.txt", sequence=2), reply("")]
    counted = await replica.stub.CountTokens(contract.CountTokensRequest(items=items, model=model.embedding_model))
    texts = [each.text for each in items[:2]]
    embedded = [await replica.stub.Embed(contract.EmbedRequest(texts=[text])) for text in texts]
    assert list(counted.tokens) == [*(each.tokens for each in embedded), 0]
    assert all(each.model == model.embedding_model for each in embedded)
    plain = await replica.stub.CountTokens(contract.CountTokensRequest(items=items))
    named = await replica.stub.CountTokens(contract.CountTokensRequest(items=items, model=model.name))
    assert plain == named != counted
    assert plain.tokenizer != counted.tokenizer


async def test_vectors_are_unit_and_alike_for_like_texts(replica: Replica) -> None:
    texts = ["a cat sat on the mat", "the cat is on a rug", "interest rates rose", "x" * 65_536, "\x00"]
    answer = await replica.stub.Embed(contract.EmbedRequest(texts=texts))
    vectors = np.frombuffer(answer.vectors, dtype="<f4").reshape(len(texts), answer.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert answer.tokens > len(texts)


async def test_what_is_not_served_or_not_said_is_named(replica: Replica) -> None:
    request = contract.GenerateRequest(tenant="t", session="s", manifest=manifest(conversation(0)), model="gpt")
    error = await error_of(replica.stub.Generate(request).read())
    assert error.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
    model = await replica.stub.GetModel(contract.GetModelRequest())
    for wanted in ("gpt", model.name):
        error = await error_of(replica.stub.Embed(contract.EmbedRequest(texts=["x"], model=wanted)))
        assert error.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
        assert repr(model.embedding_model) in error.message
    error = await error_of(replica.stub.CountTokens(contract.CountTokensRequest(items=[item("Hi")], model="gpt")))
    assert error.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
    assert repr(model.name) in error.message
    assert repr(model.embedding_model) in error.message
    error = await error_of(replica.generate(window_pb2.Manifest()))
    assert error.fields[0].field == "manifest.end"
    error = await error_of(replica.stub.Embed(contract.EmbedRequest()))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_replica_says_what_it_is(replica: Replica, settings: Settings, valkey: Redis) -> None:
    model = await replica.stub.GetModel(contract.GetModelRequest())
    view = View(valkey, settings.membership)
    await view.start()
    async with asyncio.timeout(WAIT_S_MAX):
        (member,) = await view.wait_for("inference")
    await view.stop()
    assert member.labels == {
        "model": model.name,
        "engine": "scripted",
        "tokenizer": model.tokenizer.hex(),
        "context_tokens_max": "4000000",
        "overhead_tokens": str(model.overhead_tokens),
        "max_output_tokens_default": str(model.max_output_tokens_default),
        "adapters": "",
        "embedding_model": model.embedding_model,
        "pool": "default",
        "region": "",
    }


async def test_no_room_for_the_cache_costs_speed_only(settings: Settings, shard: WindowShard, cache_dir: Path) -> None:
    items = shard.windows["s"] = conversation(2)
    async with running_replica(settings, cache_dir, window_cache_bytes_max=0) as replica:
        first = await replica.generate(manifest(items[:-1]), seed=3)
        answer = await replica.generate(manifest(items, prefix=len(items) - 1), seed=3)
        assert answer.started.pulled_items == len(items)
        assert answer.started.window_tokens > first.started.window_tokens
