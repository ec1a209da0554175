"""A turn's life over real gRPC and a real Valkey."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import summary_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from services.config import Settings
from tests.context_store.client import TOKENIZER, StoreClient, chained, lease_of, refusal, user
from tests.context_store.conftest import StartShard
from tests.support.eventually import eventually

Outcome = api.OpenTurnResponse
SHORT_MS = 60


async def lapsed(store: StoreClient, turn: int) -> None:
    """Waits until nobody holds the turn's lease."""
    request = api.WaitTurnRequest(key=store.key, turn=turn)
    request.timeout.FromMilliseconds(10_000)
    assert (await store.stub.WaitTurn(request)).lease_lapsed


async def test_a_turn_moves_only_what_is_new(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    assert opened.outcome == Outcome.OUTCOME_OPENED
    assert [item.text for item in opened.manifest.new_items] == ["hello"]
    assert opened.manifest.end.digest == chained(opened.manifest.new_items)
    committed = await store.commit(opened, "hi there")
    assert committed.turn.state == turn_pb2.Turn.STATE_DONE
    assert committed.turn.output_text == "hi there"
    second = await store.open("more", request_id="r2")
    assert second.manifest.prefix == opened.manifest.end
    assert [item.text for item in second.manifest.new_items] == ["hi there", "more"]
    assert second.manifest.end.digest == chained(second.manifest.new_items, opened.manifest.end.digest)


async def test_ten_of_one_request_are_one_turn(start_shard: StartShard) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()
    calls = [stores[n % 2].open("hello", driver=f"d{n}") for n in range(10)]
    answers = await asyncio.gather(*calls)
    outcomes = [answer.outcome for answer in answers]
    assert sorted(outcomes) == [Outcome.OUTCOME_OPENED] + [Outcome.OUTCOME_ATTACHED] * 9
    driver = answers[outcomes.index(Outcome.OUTCOME_OPENED)]
    await stores[0].commit(driver, "once")
    finished = await asyncio.gather(*(stores[n % 2].open("hello", driver=f"d{n}") for n in range(10)))
    assert {answer.outcome for answer in finished} == {Outcome.OUTCOME_FINISHED}
    assert {answer.turn.output_text for answer in finished} == {"once"}
    assert [one.text for one in await stores[1].fragments()] == ["hello", "once"]


async def test_another_body_under_the_same_id_is_refused(store: StoreClient) -> None:
    await store.create()
    await store.open("hello")
    code, reason, _, _ = await refusal(store.open("other"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_second_turn_waits_for_the_first(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    code, reason, _, retry_ms = await refusal(store.open("other", request_id="r2"))
    assert (code, reason) == (grpc.StatusCode.ABORTED, "TURN_IN_PROGRESS")
    assert retry_ms is not None
    assert 0 < retry_ms <= 1_000
    append = api.AppendMessagesRequest(key=store.key, messages=[user("aside")])
    assert (await refusal(store.stub.AppendMessages(append)))[1] == "TURN_IN_PROGRESS"
    await store.commit(opened, "done")
    assert (await store.open("other", request_id="r2")).outcome == Outcome.OUTCOME_OPENED


async def test_the_same_driver_finds_its_own_turn(store: StoreClient) -> None:
    await store.create()
    first, again = await store.open("hello"), await store.open("hello")
    assert again.outcome == Outcome.OUTCOME_OPENED
    assert (again.turn, again.manifest) == (first.turn, first.manifest)
    assert (await store.get()).revision == 1


async def test_a_lapsed_turn_is_taken_over_and_its_former_driver_loses(store: StoreClient) -> None:
    await store.create()
    first = await store.open("hello", lease_ms=SHORT_MS)
    await lapsed(store, 1)
    second = await store.open("hello", driver="d2")
    assert second.outcome == Outcome.OUTCOME_TAKEN_OVER
    assert (second.turn.number, second.turn.attempt) == (1, 2)
    assert second.manifest == first.manifest
    for call in (
        store.stub.CommitTurn(store.commit_request(first, "late")),
        store.stub.FailTurn(api.FailTurnRequest(key=store.key, lease=lease_of(first))),
        store.stub.RenewTurn(_renewal(store, first)),
    ):
        assert (await refusal(call))[:2] == (grpc.StatusCode.ABORTED, "LEASE_LOST")
    assert (await store.commit(second, "taken")).turn.output_text == "taken"
    assert [one.text for one in await store.fragments()] == ["hello", "taken"]


async def test_a_driver_of_an_erased_session_cannot_touch_the_next_one_of_its_id(store: StoreClient) -> None:
    await store.create()
    first = await store.open("hello", lease_ms=60_000)
    await store.delete()
    await store.create()
    second = await store.open("hello", lease_ms=60_000)
    assert (first.turn.number, first.turn.attempt) == (second.turn.number, second.turn.attempt)
    assert first.incarnation != second.incarnation

    async def all_refused() -> None:
        replan = api.ReplanTurnRequest(key=store.key, lease=lease_of(first), window_tokens_max=5_000)
        wait = api.WaitTurnRequest(key=store.key, turn=1, incarnation=first.incarnation)
        wait.timeout.FromMilliseconds(10_000)
        for call in (
            store.stub.CommitTurn(store.commit_request(first, "late")),
            store.stub.FailTurn(api.FailTurnRequest(key=store.key, lease=lease_of(first))),
            store.stub.RenewTurn(_renewal(store, first)),
            store.stub.ReplanTurn(replan),
            store.stub.WaitTurn(wait),
        ):
            assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")

    await all_refused()
    await store.commit(second, "in time")
    await all_refused()
    assert await store.texts() == ["hello", "in time"]


def _renewal(store: StoreClient, opened: api.OpenTurnResponse) -> api.RenewTurnRequest:
    request = api.RenewTurnRequest(key=store.key, lease=lease_of(opened))
    request.duration.FromMilliseconds(5_000)
    return request


async def test_a_renewed_lease_does_not_lapse(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello", lease_ms=SHORT_MS)
    await store.stub.RenewTurn(_renewal(store, opened))
    request = api.WaitTurnRequest(key=store.key, turn=1)
    request.timeout.FromMilliseconds(2 * SHORT_MS)
    assert not (await store.stub.WaitTurn(request)).lease_lapsed
    assert (await store.open("hello", driver="d2")).outcome == Outcome.OUTCOME_ATTACHED


async def test_a_lapsed_turn_expires_when_another_comes(store: StoreClient) -> None:
    await store.create()
    await store.turn("r0", "before", reply="fine")
    first = await store.open("lost", lease_ms=SHORT_MS)
    await lapsed(store, 2)
    second = await store.open("other", request_id="r2")
    assert [item.text for item in second.manifest.new_items] == ["fine", "other"]
    late = store.stub.CommitTurn(store.commit_request(first, "late"))
    assert (await refusal(late))[1] == "LEASE_LOST"
    await store.commit(second, "ok")
    assert (await store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=2))).state == turn_pb2.Turn.STATE_EXPIRED
    anew = await store.open("lost")
    assert (anew.outcome, anew.turn.number) == (Outcome.OUTCOME_OPENED, 4)


async def test_a_failed_turn_is_void_and_runs_anew(store: StoreClient) -> None:
    await store.create()
    before = await store.open("before", request_id="r0")
    await store.commit(before, "fine")
    opened = await store.open("bad luck")
    request = api.FailTurnRequest(
        key=store.key, lease=lease_of(opened), reason=errors_pb2.ERROR_REASON_ENGINE_FAILED, message="it broke"
    )
    failed = await store.stub.FailTurn(request)
    assert (failed.state, failed.error.message) == (turn_pb2.Turn.STATE_FAILED, "it broke")
    assert await store.stub.FailTurn(request) == failed
    anew = await store.open("bad luck", driver="d2")
    assert (anew.outcome, anew.turn.number) == (Outcome.OUTCOME_OPENED, 3)
    assert anew.manifest.prefix == before.manifest.end
    assert [item.text for item in anew.manifest.new_items] == ["fine", "bad luck"]
    await store.commit(anew, "better")
    assert [one.text for one in await store.fragments()] == ["before", "fine", "bad luck", "better"]


async def test_a_cancelled_turn_tells_its_driver(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    cancel = api.CancelTurnRequest(key=store.key, turn=1)
    cancelled = await store.stub.CancelTurn(cancel)
    assert cancelled.state == turn_pb2.Turn.STATE_CANCELLED
    assert await store.stub.CancelTurn(cancel) == cancelled
    for call in (
        store.stub.RenewTurn(_renewal(store, opened)),
        store.stub.CommitTurn(store.commit_request(opened, "late")),
    ):
        assert (await refusal(call))[:2] == (grpc.StatusCode.CANCELLED, "TURN_CANCELLED")
    again = await store.open("hello")
    assert (again.outcome, again.turn.state) == (Outcome.OUTCOME_FINISHED, turn_pb2.Turn.STATE_CANCELLED)
    await store.turn("r2", "on")
    code, reason, _, _ = await refusal(store.stub.CancelTurn(api.CancelTurnRequest(key=store.key, turn=2)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TURN_STATE")
    assert (await refusal(store.stub.CancelTurn(api.CancelTurnRequest(key=store.key, turn=9))))[1] == "NOT_FOUND"


async def test_a_second_commit_answers_with_the_first(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    first = await store.commit(opened, "one")
    second = await store.commit(opened, "two")
    assert second.turn.output_text == "one"
    assert second.turn.last_output_sequence == first.turn.last_output_sequence
    assert [one.text for one in await store.fragments()] == ["hello", "one"]


async def test_a_model_may_say_nothing(store: StoreClient) -> None:
    await store.create()
    done = await store.turn("r1", "hello", reply="")
    assert (done.first_output_sequence, done.output_text) == (0, "")
    following = await store.open("well?", request_id="r2")
    assert [item.text for item in following.manifest.new_items] == ["well?"]


async def test_the_receipt_is_kept_as_it_came_and_the_answer_times_the_commit(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    request = store.commit_request(opened, "hi")
    request.receipt.trace_id = "abc"
    request.receipt.hops.add(name="gateway.inference", operation="generate", duration_ms=5)
    committed = await store.stub.CommitTurn(request)
    kept = await store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=1))
    assert kept == committed.turn
    # But for the shard: the one that commits is the one that served.
    request.receipt.shard = kept.receipt.shard
    assert kept.receipt.shard
    assert kept.receipt == request.receipt
    for timing in (opened.timing, committed.timing):
        assert timing.shard == "store-1"
        assert min(timing.valkey_ms, timing.valkey_bytes_sent, timing.valkey_bytes_received) > 0


async def test_after_turn_must_be_the_latest_done_one(store: StoreClient) -> None:
    await store.create()
    code, reason, metadata, _ = await refusal(store.open("hello", after_turn=3))
    assert (code, reason, metadata) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_LATEST_TURN",
        {"latest_turn": "0"},
    )
    await store.turn("r1", "hello", after_turn=0)
    assert (await store.open("more", request_id="r2", after_turn=1)).outcome == Outcome.OUTCOME_OPENED


async def test_what_does_not_fit_is_refused_but_a_known_request_is_found(store: StoreClient) -> None:
    await store.create()
    code, reason, metadata, _ = await refusal(store.open("long " * 100, room=100))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TURN_TOO_LARGE")
    assert int(metadata["tokens"]) > int(metadata["tokens_max"]) == 100
    assert (await store.get()).revision == 0
    await store.turn("r1", "long " * 100)
    assert (await store.open("long " * 100, room=100)).outcome == Outcome.OUTCOME_FINISHED


async def test_long_messages_are_split_and_joined_again(store: StoreClient) -> None:
    await store.create()
    question, answer = "What is this? " * 3_000, "It is a question. " * 3_000
    done = await store.turn("r1", question, reply=answer)
    assert (await store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=1))).output_text == answer
    fragments = await store.fragments()
    inputs = [one for one in fragments if one.sequence <= done.last_input_sequence]
    assert "".join(one.text for one in inputs) == question
    assert [one.part for one in inputs] == list(range(len(inputs)))


async def test_turns_are_listed_in_pages(store: StoreClient) -> None:
    await store.create()
    for number in range(1, 6):
        await store.turn(f"r{number}", "hello")
    first = await store.stub.ListTurns(api.ListTurnsRequest(key=store.key, page_size=2))
    second = await store.stub.ListTurns(
        api.ListTurnsRequest(key=store.key, page_size=3, page_token=first.next_page_token)
    )
    assert [turn.number for turn in (*first.turns, *second.turns)] == [1, 2, 3, 4, 5]
    assert not second.next_page_token
    assert {turn.output_text for turn in second.turns} == {""}
    foreign = store.about("s2")
    await foreign.create()
    call = store.stub.ListTurns(api.ListTurnsRequest(key=foreign.key, page_token=first.next_page_token))
    assert (await refusal(call))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_pages_of_turns_are_bounded_by_bytes(start_shard: StartShard, settings: Settings) -> None:
    small = settings.store.model_copy(update={"page_bytes_max": 65_536})
    store = await start_shard(settings.model_copy(update={"store": small}))
    await store.create()
    for number in range(1, 5):
        opened = await store.open("hello", request_id=f"r{number}")
        request = store.commit_request(opened, "hi")
        request.receipt.hops.extend(turn_pb2.Hop(name="x" * 1_000) for _ in range(30))
        await store.stub.CommitTurn(request)
    first = await store.stub.ListTurns(api.ListTurnsRequest(key=store.key))
    rest = await store.stub.ListTurns(api.ListTurnsRequest(key=store.key, page_token=first.next_page_token))
    assert [[turn.number for turn in page.turns] for page in (first, rest)] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("closer", [0, 1], ids=["by the same shard", "by the other"])
async def test_waiting_ends_with_the_turn(start_shard: StartShard, closer: int) -> None:
    stores = [await start_shard(), await start_shard()]
    await stores[0].create()
    opened = await stores[0].open("hello")
    request = api.WaitTurnRequest(key=stores[0].key, turn=1)
    request.timeout.FromMilliseconds(20_000)
    waiting = asyncio.ensure_future(stores[0].stub.WaitTurn(request))
    await stores[closer].commit(opened, "done")
    answer = await asyncio.wait_for(waiting, 10)
    assert (answer.turn.output_text, answer.lease_lapsed) == ("done", False)


async def test_waiting_ends_with_the_timeout(store: StoreClient) -> None:
    await store.create()
    await store.open("hello")
    request = api.WaitTurnRequest(key=store.key, turn=1)
    request.timeout.FromMilliseconds(30)
    answer = await store.stub.WaitTurn(request)
    assert (answer.turn.state, answer.lease_lapsed) == (turn_pb2.Turn.STATE_OPEN, False)


async def test_a_replan_takes_the_replicas_measure(store: StoreClient) -> None:
    await store.create()
    for number in range(20):
        await store.turn(f"r{number}", f"message {number} " * 20, reply="reply " * 20)
    opened = await store.open("now", request_id="now", room=5_000)
    assert opened.manifest.epoch == 1
    tight = api.ReplanTurnRequest(
        key=store.key, lease=lease_of(opened), window_tokens_max=5_000, tokenizer=TOKENIZER, measured_tokens=9_000
    )
    planned = await store.stub.ReplanTurn(tight)
    assert planned.manifest.epoch == 2
    assert planned.manifest.tokens <= 2_500
    assert planned.manifest.report.left_out_tokens > 0
    _, items = await store.window(planned.manifest)
    assert chained(items) == planned.manifest.end.digest
    assert items[-1].text == "now"


async def test_exact_counts_replace_estimates(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    await store.commit(opened, "hi", counts=[(1, 3), (2, 2)])
    session = await store.get()
    assert session.tokens == 5
    second = await store.open("more", request_id="r2")
    counts = [summary_pb2.TokenCount(sequence=3, tokens=4)]
    request = api.ReplanTurnRequest(
        key=store.key, lease=lease_of(second), window_tokens_max=50, tokenizer=TOKENIZER, counts=counts
    )
    assert (await store.stub.ReplanTurn(request)).manifest.tokens == 9


async def test_a_turn_that_vanishes_with_its_session(store: StoreClient) -> None:
    await store.create()
    opened = await store.open("hello")
    await store.stub.DeleteSession(api.DeleteSessionRequest(key=store.key))
    for call in (
        store.stub.CommitTurn(store.commit_request(opened, "late")),
        store.stub.RenewTurn(_renewal(store, opened)),
        store.stub.GetTurn(api.GetTurnRequest(key=store.key, turn=1)),
        store.open("hello"),
    ):
        assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await store.create()
    assert (await eventually(lambda: store.open("hello"))).turn.number == 1
