"""Two shards that both believe they own a session: one of them wastes work, neither corrupts it."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.session.v1 import session_pb2

from tests.context_store.client import StoreClient, chained, lease_of
from tests.context_store.conftest import StartShard
from tests.context_store.test_turns_over_grpc import lapsed

ROOM = 1_500


async def both(start_shard: StartShard) -> tuple[StoreClient, StoreClient]:
    """Two shards with a copy each of a session of six turns."""
    here, there = await start_shard(), await start_shard()
    await here.create()
    for number in range(6):
        await here.turn(f"r{number}", "q" * 600, reply="a" * 600)
    assert await there.get() == await here.get()
    return here, there


async def same_window(here: StoreClient, there: StoreClient, request_id: str = "now") -> api.OpenTurnResponse:
    """Opens a turn on one shard and finds the very same window on the other."""
    opened = await here.open("now", request_id=request_id, room=ROOM)
    again = await there.open("now", request_id=request_id, room=ROOM)
    assert again.manifest == opened.manifest
    _, items = await there.window(opened.manifest)
    assert chained(items) == opened.manifest.end.digest
    return opened


async def test_a_summary_from_elsewhere_is_used(start_shard: StartShard) -> None:
    here, there = await both(start_shard)
    await there.stub.CommitSummary(await there.summarise(1, 4))
    assert (await here.get()).summary_count == 1
    opened = await same_window(here, there)
    assert opened.manifest.report.summary_count == 1


async def test_counts_from_elsewhere_are_used(start_shard: StartShard) -> None:
    here, there = await both(start_shard)
    opened = await there.open("count", request_id="count")
    await there.commit(opened, "", counts=[(sequence, 100) for sequence in range(1, 13)])
    assert (await here.get()).tokens == (await there.get()).tokens == 1_200 + 10
    opened = await same_window(here, there)
    assert (opened.manifest.epoch, opened.manifest.tokens) == (1, 1_200 + 10 + 9)


async def test_turns_that_failed_elsewhere_are_void_here(start_shard: StartShard) -> None:
    here, there = await both(start_shard)
    opened = await here.open("bad", request_id="bad")
    await there.stub.FailTurn(api.FailTurnRequest(key=there.key, lease=lease_of(opened)))
    assert opened.turn.number == 7
    following = await here.open("good", request_id="good")
    assert [item.text for item in following.manifest.new_items] == ["a" * 600, "good"]


async def test_a_limit_from_elsewhere_holds(start_shard: StartShard) -> None:
    here, there = await both(start_shard)
    own = session_pb2.Session(window_tokens_max=1_000)
    await there.stub.UpdateSession(api.UpdateSessionRequest(key=there.key, session=own))
    assert (await here.open("now", request_id="now")).manifest.tokens <= 500


@pytest.mark.parametrize("is_taken_over", [True, False])
async def test_who_resumes_with_less_room_begins_an_epoch(start_shard: StartShard, is_taken_over: bool) -> None:
    here, there = await both(start_shard)
    first = await here.open("now", request_id="now", lease_ms=60 if is_taken_over else 60_000)
    if is_taken_over:
        await lapsed(here, 7)
    second = await there.open("now", request_id="now", room=ROOM, driver="d2" if is_taken_over else "d1")
    assert (first.manifest.epoch, second.manifest.epoch) == (1, 2)
    assert second.manifest.tokens <= ROOM // 2
    for shard in (here, there):
        _, items = await shard.window(second.manifest)
        assert chained(items) == second.manifest.end.digest
    await here.commit(second, "done")
    assert (await there.open("then", request_id="then", room=ROOM)).manifest.prefix == second.manifest.end


async def test_many_drivers_at_once_make_one_gapless_log(start_shard: StartShard) -> None:
    here, there = await start_shard(), await start_shard()
    await here.create()

    async def drive(store: StoreClient, name: str) -> None:
        for number in range(5):
            request_id = f"{name}-{number}"
            while True:
                try:
                    await store.turn(request_id, request_id, reply=f"to {request_id}", driver=request_id)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.ABORTED:
                        raise
                    await store.stub.WaitTurn(_short_wait(store, (await store.get()).turn_count))

    await asyncio.gather(*(drive(store, f"{n}") for n, store in enumerate((here, there, here, there))))
    log = await there.fragments()
    assert [one.sequence for one in log] == list(range(1, 41))
    for question, answer in zip(log[::2], log[1::2], strict=True):
        assert answer.text == f"to {question.text}"
        assert question.turn == answer.turn
    assert len({one.text for one in log}) == 40


def _short_wait(store: StoreClient, turn: int) -> api.WaitTurnRequest:
    request = api.WaitTurnRequest(key=store.key, turn=turn)
    request.timeout.FromMilliseconds(200)
    return request


async def test_a_write_on_an_old_copy_finds_its_place(start_shard: StartShard) -> None:
    here, there = await both(start_shard)
    opened = await here.open("question", request_id="question")
    await there.write("d", b"written meanwhile")
    done = (await here.commit(opened, "answer")).turn
    assert (done.last_input_sequence, done.first_output_sequence) == (13, 15)
    assert (await there.stub.GetTurn(api.GetTurnRequest(key=there.key, turn=7))).output_text == "answer"
    await there.write("e", b"and more")
    following = await here.open("next", request_id="next")
    assert following.turn.first_input_sequence == 17
    said = [item.text for item in following.manifest.new_items]
    assert said == ["written meanwhile", "answer", "and more", "next"]
