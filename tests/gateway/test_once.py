"""A request_id takes effect once, and a session runs one turn at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
from google.protobuf import duration_pb2
from isthmus.context.v1 import context_service_pb2
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2
from redis.asyncio import Redis

from gateway.identity import turn_digest
from gateway.turn.calls import lease_of
from services.config import Settings
from services.errors import IsthmusError
from services.router import STORE
from tests.gateway.client import Client, Request, connected, kinds, text_of, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh

if TYPE_CHECKING:
    from isthmus.context.v1.context_service_pb2_grpc import ContextServiceAsyncStub


KEY = context_service_pb2.SessionKey(tenant="local", session="s1")


async def test_ten_equal_requests_at_once_are_one_turn_with_ten_equal_answers(client: Client) -> None:
    await client.create("s1")
    request = turn_request("s1", "Once.", "r1")
    turns = await asyncio.gather(*(client.turn(request) for _ in range(10)))
    assert len({turn.SerializeToString(deterministic=True) for turn in turns}) == 1
    assert await client.texts("s1") == ["Once.", turns[0].output_text]


async def test_equal_requests_at_two_gateways_are_one_turn(quick: Settings) -> None:
    async with running_mesh(quick, gateways=2) as mesh:
        targets = [mesh.gateway_room(number).address for number in range(2)]
        async with connected(targets[0]) as one, connected(targets[1]) as two:
            await one.create("s1")
            request = turn_request("s1", "Once.", "r1")
            turns = await asyncio.gather(*(client.turn(request) for client in (one, two, one, two)))
            assert len({turn.output_text for turn in turns}) == 1
            assert len(await one.texts("s1")) == 2


async def test_a_finished_turn_is_told_again_in_the_same_deltas(client: Client) -> None:
    await client.create("s1")
    first = await client.events(turn_request("s1", "Once.", "r1"))
    again = await client.events(turn_request("s1", "Once.", "r1"))
    assert again[0].accepted.attached
    assert again[1:] == [event for event in first[1:] if not event.HasField("hop")]


async def test_the_same_request_id_with_another_body_is_refused(client: Client) -> None:
    await client.create("s1")
    await client.turn(turn_request("s1", "Once.", "r1"))
    other = await client.outcome(turn_request("s1", "Twice.", "r1"))
    assert isinstance(other, IsthmusError)
    assert other.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED
    assert len(await client.texts("s1")) == 2


async def test_of_two_turns_at_once_one_runs_and_the_other_is_told_when_to_retry(slow: Settings) -> None:
    async with running_mesh(slow) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        first = client.stub.RunTurn(turn_request("s1", "First.", "r1"))
        await anext(aiter(first))
        second = await client.outcome(turn_request("s1", "Second.", "r2"))
        first.cancel()
    assert isinstance(second, IsthmusError)
    assert second.reason == errors_pb2.ERROR_REASON_TURN_IN_PROGRESS
    assert second.code is grpc.StatusCode.ABORTED
    assert second.retry_after_ms


async def test_a_turn_whose_driver_is_lost_is_taken_over(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    request = turn_request("s1", "Who drives?", "r1")
    await _open_and_vanish(mesh, request, lease_ms=300)
    events = await client.events(request)
    assert (events[0].accepted.attached, events[0].accepted.attempt) == (True, 2)
    turn = events[-1].done.turn
    assert (turn.number, turn.state) == (1, turn_pb2.Turn.STATE_DONE)
    assert await client.texts("s1") == ["Who drives?", turn.output_text]


async def test_a_driver_that_lost_its_lease_tells_what_the_new_one_made_of_the_turn(
    slow: Settings, valkey: Redis
) -> None:
    thinking = changed(slow, "inference", scripted_ttft_ms=30_000)
    async with running_mesh(thinking) as mesh, connected(mesh.grpc_target) as client, _shard(mesh) as shard:
        await client.create("s1")
        request = turn_request("s1", "Whose reply?", "r1")
        running = asyncio.create_task(client.events(request))
        await eventually(mesh.generating, message="the first driver's reply is under way")
        await valkey.hset("isthmus:{local/s1}:meta", "lease_until_ms", "0")
        taken = await shard.OpenTurn(_opening(request, "thief", lease_ms=10_000))
        assert taken.outcome == context_service_pb2.OpenTurnResponse.OUTCOME_TAKEN_OVER
        await eventually(lambda: not mesh.generating(), message="the first driver gives up")
        commit = context_service_pb2.CommitTurnRequest(key=KEY, lease=lease_of(taken), output_text="The other's.")
        await shard.CommitTurn(commit)
        events = await running
    assert kinds(events).count("accepted") == 1
    assert text_of(events) == events[-1].done.turn.output_text == "The other's."


async def test_another_request_goes_on_once_the_lost_turns_lease_has_lapsed(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    await _open_and_vanish(mesh, turn_request("s1", "Lost.", "r1"), lease_ms=300)
    while isinstance(outcome := await client.outcome(turn_request("s1", "Next.", "r2")), IsthmusError):
        assert outcome.reason == errors_pb2.ERROR_REASON_TURN_IN_PROGRESS
        assert outcome.retry_after_ms is not None
        await asyncio.sleep(outcome.retry_after_ms / 1000)
    assert outcome.state == turn_pb2.Turn.STATE_DONE
    assert outcome.receipt.window.item_count == 1, "the lost turn's message is in no window"
    assert (await client.get_turn("sessions/s1/turns/1")).state == turn_pb2.Turn.STATE_EXPIRED


@asynccontextmanager
async def _shard(mesh: Mesh) -> AsyncIterator[ContextServiceAsyncStub]:
    async with grpc.aio.insecure_channel(mesh.view.ready(STORE)[0].endpoint) as channel:
        yield ContextServiceStub(channel)


def _opening(request: Request, driver: str, lease_ms: int) -> context_service_pb2.OpenTurnRequest:
    lease = duration_pb2.Duration()
    lease.FromMilliseconds(lease_ms)
    return context_service_pb2.OpenTurnRequest(
        key=KEY,
        request_id=request.request_id,
        body_digest=turn_digest(request, None),
        driver=driver,
        messages=request.messages,
        window_tokens_max=100_000,
        lease=lease,
    )


async def _open_and_vanish(mesh: Mesh, request: Request, lease_ms: int) -> None:
    """What a gateway leaves behind that is killed after it has opened a turn."""
    async with _shard(mesh) as shard:
        await shard.OpenTurn(_opening(request, "lost", lease_ms))
