"""The manual's first page: a session, its turns, and what a retry does."""

from __future__ import annotations

import asyncio

import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, connected, turn_request
from tests.support.mesh import running_mesh


async def test_a_turn_is_its_new_messages_in_and_events_out(client: Client) -> None:
    await client.create("manual")
    events = await client.events(turn_request("manual", "Name three rivers."))

    # First the promise: the messages are durable from here on.
    assert events[0].accepted.turn == "sessions/manual/turns/1"
    # Then hops and text as they come, at the end the whole turn: the reply is durable from here on.
    done = events[-1].done.turn
    assert done.state == turn_pb2.Turn.STATE_DONE
    assert "".join(event.delta.text for event in events) == done.output_text


async def test_a_receipt_says_what_the_turn_cost(client: Client) -> None:
    await client.create("manual")
    await client.turn(turn_request("manual", "Name three rivers."))
    events = await client.events(turn_request("manual", "And three lakes."))
    receipt = events[-1].done.turn.receipt

    # The receipt is stored by the commit, so the hops of the commit itself come as events only.
    told = [f"{event.hop.name} {event.hop.operation}" for event in events if event.HasField("hop")]
    assert [f"{hop.name} {hop.operation}" for hop in receipt.hops] == told[:-2]
    assert told == [
        "gateway.context_store open",
        "context_store.valkey open",
        "gateway.context_store plan",
        "gateway.inference generate",
        "inference.engine generate",
        "gateway.context_store commit",
        "context_store.valkey commit",
    ]
    # The replica holds the first turn as token ids: only the reply's frame and the new message were tokenised.
    assert 0 < receipt.tokens.new_tokens < receipt.tokens.window_tokens
    assert receipt.tokens.reused_tokens + receipt.tokens.new_tokens == receipt.tokens.window_tokens
    assert receipt.tokens.output_tokens > 0
    assert receipt.total_ms >= receipt.ttft_ms > 0
    assert receipt.window.item_count == 3
    assert not receipt.window.left_out


async def test_the_same_request_id_takes_effect_once(client: Client) -> None:
    await client.create("manual")
    request = turn_request("manual", "Name three rivers.", "rivers-1")
    turns = await asyncio.gather(*(client.turn(request) for _ in range(10)))

    assert all(turn == turns[0] for turn in turns)
    assert await client.texts("manual") == ["Name three rivers.", turns[0].output_text]

    with pytest.raises(IsthmusError) as refused:
        await client.turn(turn_request("manual", "Name three lakes.", "rivers-1"))
    assert refused.value.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED


async def test_one_turn_at_a_time_on_a_session(slow: Settings) -> None:
    async with running_mesh(slow) as mesh, connected(mesh.grpc_target) as client:
        await client.create("manual")
        first = client.stub.RunTurn(turn_request("manual", "Take your time."))
        assert (await anext(aiter(first))).HasField("accepted")

        with pytest.raises(IsthmusError) as refused:
            await client.turn(turn_request("manual", "And quickly this."))
        assert refused.value.reason == errors_pb2.ERROR_REASON_TURN_IN_PROGRESS
        assert refused.value.retry_after_ms is not None
        # Nothing of the second was mixed into the first.
        assert await client.texts("manual") == ["Take your time."]
        first.cancel()
