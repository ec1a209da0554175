"""Turns that are stopped: by their client's leaving, by its deadline, by CancelTurn, at this gateway or another."""

from __future__ import annotations

import asyncio
import time

import grpc.aio
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, connected, drained, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import changed, running_mesh

UNSTOPPED_S = 30.0


async def test_a_client_that_leaves_ends_the_turn_and_its_retry_runs_it_anew(slow: Settings) -> None:
    async with running_mesh(slow) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        request = turn_request("s1", "Wait for me.", "r1")
        call = client.stub.RunTurn(request)
        await anext(event async for event in call if event.HasField("delta"))
        call.cancel()
        await eventually(lambda: not mesh.generating(), message="generation ends")
        retry = client.stub.RunTurn(request)
        accepted = await anext(aiter(retry))
        assert accepted.accepted.turn == "sessions/s1/turns/2"
        left = await client.get_turn("sessions/s1/turns/1")
        assert left.state == turn_pb2.Turn.STATE_FAILED
        retry.cancel()


async def test_a_retry_that_overtakes_the_leaving_is_no_error(slow: Settings) -> None:
    quick_end = changed(slow, "inference", scripted_output_tokens=20)
    async with running_mesh(quick_end) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        request = turn_request("s1", "Now or now.", "r1")
        for _ in range(3):
            call = client.stub.RunTurn(request)
            await anext(aiter(call))
            call.cancel()
        turn = await client.turn(request)
        assert turn.state == turn_pb2.Turn.STATE_DONE
        assert turn.receipt.window.item_count == 1, "what the left turns had said is in no window"


async def test_a_deadline_that_passes_frees_the_session_at_once(slow: Settings) -> None:
    async with running_mesh(slow) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drained(client.stub.RunTurn(turn_request("s1", "Quick!", "r1"), timeout=0.5))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: _state_is(client, turn_pb2.Turn.STATE_FAILED), message="the turn is closed")
        assert not mesh.generating()


async def test_cancelling_a_turn_stops_it_at_once_and_for_good(slow: Settings) -> None:
    patient = changed(slow, "gateway", lease_ms=60_000)
    async with running_mesh(patient) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        await _cancelled_elsewhere(client, client)
        assert not mesh.generating()
        again = await client.outcome(turn_request("s1", "Stop me.", "r1"))
        assert isinstance(again, IsthmusError)
        assert again.reason == errors_pb2.ERROR_REASON_TURN_CANCELLED


async def test_a_turn_is_cancelled_from_another_gateway_when_its_lease_is_renewed(slow: Settings) -> None:
    async with (
        running_mesh(slow, gateways=2) as mesh,
        connected(mesh.gateway_room(0).address) as one,
        connected(mesh.gateway_room(1).address) as two,
    ):
        await one.create("s1")
        await _cancelled_elsewhere(one, two)
        await eventually(lambda: not mesh.generating(), message="generation ends")


async def test_a_long_turn_outlives_many_leases(slow: Settings) -> None:
    """Three leases' worth of generation, with every renewal needed."""
    steady = changed(changed(slow, "gateway", lease_ms=300), "inference", scripted_output_tokens=20)
    async with running_mesh(steady) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        turn = await client.turn(turn_request("s1", "Take your time."))
        assert (turn.state, turn.attempt) == (turn_pb2.Turn.STATE_DONE, 1)


async def test_a_gateway_full_of_turns_refuses_one_more_with_a_time_to_retry(slow: Settings) -> None:
    narrow = changed(slow, "gateway", turns_count_max=1, limits={"queue_turns_count_max": 0})
    async with running_mesh(narrow) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        await client.create("s2")
        call = client.stub.RunTurn(turn_request("s1", "First."))
        await anext(aiter(call))
        refused = await client.outcome(turn_request("s2", "Second."))
        call.cancel()
    assert isinstance(refused, IsthmusError)
    assert refused.reason == errors_pb2.ERROR_REASON_OVERLOADED
    assert refused.retry_after_ms


async def test_a_draining_gateway_ends_its_turns_and_takes_no_new_ones(slow: Settings) -> None:
    steady = changed(slow, "inference", scripted_output_tokens=20)
    async with running_mesh(steady) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        call = client.stub.RunTurn(turn_request("s1", "Let me finish."))
        await anext(aiter(call))
        draining = asyncio.create_task(mesh.gateway.drain())
        await eventually(lambda: _refused(client), message="no new turns")
        events = await drained(call)
        assert events[-1].done.turn.state == turn_pb2.Turn.STATE_DONE
        await draining


async def _cancelled_elsewhere(driver: Client, canceller: Client) -> None:
    """Runs a turn at one client and cancels it at another."""
    call = driver.stub.RunTurn(turn_request("s1", "Stop me.", "r1"))
    accepted = await anext(aiter(call))
    await anext(event async for event in call if event.HasField("delta"))
    started_at = time.monotonic()
    cancelled = await canceller.stub.CancelTurn(session_service_pb2.CancelTurnRequest(name=accepted.accepted.turn))
    assert cancelled.state == turn_pb2.Turn.STATE_CANCELLED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drained(call)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert time.monotonic() - started_at < UNSTOPPED_S / 3


async def _state_is(client: Client, state: turn_pb2.Turn.State.ValueType) -> bool:
    return (await client.get_turn("sessions/s1/turns/1")).state == state


async def _refused(client: Client) -> bool:
    outcome = await client.outcome(turn_request("s1", "One more.", "r9"))
    return isinstance(outcome, IsthmusError) and outcome.reason == errors_pb2.ERROR_REASON_NOT_READY
