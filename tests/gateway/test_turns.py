"""One turn through every room: what the client hears, what is kept, and what it cost."""

from __future__ import annotations

from itertools import groupby

import grpc
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, connected, kinds, text_of, turn_request, user
from tests.support.mesh import changed, running_mesh

COMMIT_HOPS = [("gateway.context_store", "commit"), ("context_store.valkey", "commit")]
ALL_HOPS = {
    *COMMIT_HOPS,
    ("gateway.context_store", "open"),
    ("context_store.valkey", "open"),
    ("gateway.context_store", "plan"),
    ("gateway.inference", "generate"),
    ("inference.engine", "generate"),
}


async def test_events_come_in_the_contracts_order_and_the_reply_is_durable(client: Client) -> None:
    await client.create("s1")
    events = await client.events(turn_request("s1", "Where does the narrow way lead?", "r1"))

    assert [kind for kind, _ in groupby(kinds(events))] == ["accepted", "hop", "delta", "hop", "done"]
    accepted, done = events[0].accepted, events[-1].done.turn
    assert (accepted.turn, accepted.request_id, accepted.attached) == ("sessions/s1/turns/1", "r1", False)
    assert done.state == turn_pb2.Turn.STATE_DONE
    assert done.output_text == text_of(events) != ""
    assert await client.texts("s1") == ["Where does the narrow way lead?", done.output_text]
    stored = await client.get_turn(done.name)
    assert (stored.output_text, stored.finish_reason) == (done.output_text, done.finish_reason)


async def test_who_wants_no_hops_is_told_none_and_finds_them_in_the_receipt(client: Client) -> None:
    await client.create("s1")
    request = turn_request("s1", "Where does the narrow way lead?", "r1")
    request.hop_detail = session_service_pb2.RunTurnRequest.HOP_DETAIL_RECEIPT
    events = await client.events(request)

    assert [kind for kind, _ in groupby(kinds(events))] == ["accepted", "delta", "done"]
    told = {(hop.name, hop.operation) for hop in events[-1].done.turn.receipt.hops}
    assert told == ALL_HOPS - set(COMMIT_HOPS)
    # How it is told is no part of what is asked for.
    request.hop_detail = session_service_pb2.RunTurnRequest.HOP_DETAIL_UNSPECIFIED
    assert (await client.events(request))[-1].done.turn.name == events[-1].done.turn.name


async def test_the_receipt_is_complete_and_its_hops_were_told_as_they_came(client: Client) -> None:
    await client.create("s1")
    events = await client.events(turn_request("s1", "What did it cost?"))
    receipt = events[-1].done.turn.receipt

    told = [(event.hop.name, event.hop.operation) for event in events if event.HasField("hop")]
    assert set(told) >= ALL_HOPS
    # The receipt is stored by the commit, whose own hops are told and no more.
    assert [*((hop.name, hop.operation) for hop in receipt.hops), *COMMIT_HOPS] == told
    for hop in receipt.hops:
        if hop.name == "gateway.context_store" and hop.operation != "plan":
            assert min(hop.duration_ms, hop.bytes_sent, hop.bytes_received) > 0
    assert receipt.tokens.output_tokens == 24
    assert receipt.tokens.window_tokens >= receipt.tokens.new_tokens > 0
    assert 0 < receipt.ttft_ms <= receipt.total_ms
    assert receipt.window.item_count == 1
    assert receipt.shard.startswith("context_store-")
    assert (receipt.replica, receipt.model) == ("inference-0", "scripted")
    assert len(receipt.trace_id) == 32


async def test_a_second_turn_reuses_what_the_replica_holds(client: Client) -> None:
    await client.create("s1")
    await client.turn(turn_request("s1", "The first message of a story. " * 50))
    receipt = (await client.turn(turn_request("s1", "And then?"))).receipt
    assert receipt.window.item_count == 3
    assert receipt.tokens.reused_tokens > 10 * receipt.tokens.new_tokens > 0
    assert "pull" not in {hop.operation for hop in receipt.hops}


async def test_bytes_on_each_hop_do_not_grow_with_the_session(client: Client) -> None:
    await client.create("s1")
    await client.turn(turn_request("s1", "hello"))
    small = (await client.turn(turn_request("s1", "and now?"))).receipt
    story = "".join(f"On day {day} nothing much happened by the narrow way.\n" for day in range(20_000))
    await client.ingest("s1", "story", story.encode())
    await client.turn(turn_request("s1", "take it in"))
    large = (await client.turn(turn_request("s1", "and now?"))).receipt

    assert large.tokens.window_tokens > 100 * small.tokens.window_tokens
    before, after = ({(hop.name, hop.operation): hop for hop in each.hops} for each in (small, large))
    assert before.keys() == after.keys()
    for leg, hop in before.items():
        assert abs(after[leg].bytes_sent - hop.bytes_sent) < 1_024, leg
        assert abs(after[leg].bytes_received - hop.bytes_received) < 1_024, leg


async def test_sampling_parameters_reach_the_model(client: Client) -> None:
    await client.create("s1")
    params = message_pb2.SamplingParams(max_output_tokens=5)
    turn = await client.turn(turn_request("s1", "Be brief.", params=params))
    assert turn.receipt.tokens.output_tokens == 5
    assert turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH
    assert turn.params == params


async def test_a_window_that_was_estimated_too_small_is_planned_anew(quick: Settings) -> None:
    """Signs cost more tokens than the store's estimate by bytes, and only the replica can count them."""
    small = changed(quick, "inference", context_tokens_max=2_048, max_output_tokens_default=64)
    async with running_mesh(small, shards=1) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        signs = [user("".join(chr(33 + (7 * i * i + line) % 14) for i in range(400))) for line in range(10)]
        await client.append("s1", signs)
        turn = await client.turn(turn_request("s1", "What do the signs say?"))

    hops = [(hop.name, hop.operation) for hop in turn.receipt.hops]
    assert ("context_store.valkey", "plan") in hops, "the first plan was over the model's bound"
    assert hops.count(("inference.engine", "generate")) == 1
    assert turn.receipt.tokens.window_tokens <= 2_048 - 64
    assert turn.receipt.window.left_out_tokens > 0


async def test_what_a_turn_must_hold_is_refused_when_it_exceeds_the_window(client: Client) -> None:
    await client.create("s1", window_tokens_max=100)
    with pytest.raises(IsthmusError) as caught:
        await client.turn(turn_request("s1", "word " * 2_000))
    assert caught.value.reason == errors_pb2.ERROR_REASON_TURN_TOO_LARGE


async def test_unknown_sessions_and_models_are_not_found(client: Client) -> None:
    await client.create("s1")
    no_session = await client.outcome(turn_request("s2", "hello"))
    assert isinstance(no_session, IsthmusError)
    assert no_session.reason == errors_pb2.ERROR_REASON_NOT_FOUND
    no_model = await client.outcome(turn_request("s1", "hello", model="gpt-0"))
    assert isinstance(no_model, IsthmusError)
    assert no_model.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND
    assert "scripted" in no_model.message


async def test_a_field_of_ten_megabytes_is_refused_by_its_name(client: Client) -> None:
    await client.create("s1")
    outcome = await client.outcome(turn_request("s1", "x" * (10 << 20)))
    assert isinstance(outcome, IsthmusError)
    assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in outcome.fields] == ["messages[0].text"]
    many = session_service_pb2.RunTurnRequest(session="sessions/s1", messages=[user("x" * 1_000_000)] * 3)
    outcome = await client.outcome(many)
    assert isinstance(outcome, IsthmusError)
    assert [violation.field for violation in outcome.fields] == ["messages"]
    assert await client.texts("s1") == []
