"""Shards and replicas that go away in the middle of a turn, and what the client sees of it."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc.aio
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from context_store.log.keys import Keys
from context_store.room import ContextStoreRoom
from services.config import MembershipSettings, Settings
from services.errors import IsthmusError, from_rpc_error
from services.router import STORE
from tests.gateway.client import Client, connected, drained, text_of, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh


async def test_a_replica_that_dies_before_its_first_text_is_replaced_unnoticed(quick: Settings) -> None:
    thinking = changed(quick, "inference", scripted_ttft_ms=1_000)
    async with running_mesh(thinking, replicas=2) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        running = asyncio.create_task(client.events(turn_request("s1", "Who answers?")))
        [lost] = await eventually(mesh.generating, message="a replica generates")
        await mesh.remove(lost)
        events = await running
        turn = events[-1].done.turn
        assert text_of(events) == turn.output_text != ""
        assert turn.receipt.replica != lost
        assert turn.attempt == 1


async def test_a_replica_that_is_not_replaced_fails_the_turn_and_the_retry_runs_anew(slow: Settings) -> None:
    alone = changed(slow, "gateway", continuations_count_max=0)
    async with running_mesh(alone, replicas=2) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        request = turn_request("s1", "Who answers?", "r1")
        call = client.stub.RunTurn(request)
        await anext(event async for event in call if event.HasField("delta"))
        [lost] = mesh.generating()
        await mesh.remove(lost)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drained(call)
        error = from_rpc_error(caught.value)
        assert error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert error.retry_after_ms

        retry = client.stub.RunTurn(request)
        accepted = await anext(aiter(retry))
        assert (accepted.accepted.turn, accepted.accepted.attached) == ("sessions/s1/turns/2", False)
        await anext(event async for event in retry if event.HasField("delta"))
        assert mesh.generating() != [lost]
        retry.cancel()


async def test_turns_of_many_sessions_are_spread_over_the_replicas(slow: Settings) -> None:
    async with running_mesh(slow, replicas=2) as mesh, connected(mesh.grpc_target) as client:
        calls = []
        for number in range(6):
            await client.create(f"s{number}")
            calls.append(client.stub.RunTurn(turn_request(f"s{number}", "Where?")))
            await anext(event async for event in calls[-1] if event.HasField("delta"))
        assert len(mesh.generating()) == 2, "no replica takes more than its bounded share"
        for call in calls:
            call.cancel()


async def test_without_a_replica_a_turn_waits_a_while_and_then_says_when_to_retry(slow: Settings) -> None:
    async with running_mesh(slow, replicas=0) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        outcome = await client.outcome(turn_request("s1", "Anybody there?", "r1"))
        assert isinstance(outcome, IsthmusError)
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert outcome.retry_after_ms


async def test_a_replica_that_comes_in_time_serves_the_turn_that_waits(quick: Settings) -> None:
    async with running_mesh(quick, replicas=0) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        waiting = asyncio.create_task(client.turn(turn_request("s1", "Anybody there?")))
        await mesh.add_replica(0)
        assert (await waiting).receipt.replica == "inference-0"


async def test_a_shard_that_dies_between_open_and_commit_costs_nothing_but_time(quick: Settings) -> None:
    thinking = changed(quick, "inference", scripted_ttft_ms=500)
    async with running_mesh(thinking, shards=2) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        owner = (await client.turn(turn_request("s1", "Who keeps this?"))).receipt.shard
        running = asyncio.create_task(client.turn(turn_request("s1", "And now?", "r2")))
        await eventually(mesh.generating, message="the replica generates")
        await mesh.remove(owner)
        turn = await running
        assert turn.receipt.shard != owner
        assert (await client.texts("s1"))[-2:] == ["And now?", turn.output_text]


async def test_the_commit_waits_for_the_only_shard_to_come_back(quick: Settings) -> None:
    thinking = changed(quick, "inference", scripted_ttft_ms=500)
    async with running_mesh(thinking, shards=1) as mesh, connected(mesh.grpc_target) as client:
        await client.create("s1")
        running = asyncio.create_task(client.turn(turn_request("s1", "Will it be kept?")))
        await eventually(mesh.generating, message="the replica generates")
        await mesh.remove(f"{STORE}-0")
        await eventually(lambda: not mesh.generating(), message="the reply is whole")
        await mesh.add_shard(1)
        turn = await running
        assert turn.state == turn_pb2.Turn.STATE_DONE
        assert await client.texts("s1") == ["Will it be kept?", turn.output_text]


async def test_a_gateway_that_has_not_seen_a_shard_join_is_sent_on_to_it(quick: Settings) -> None:
    unseeing = changed(quick, "membership", heartbeat_interval_ms=600_000)
    async with running_mesh(quick, shards=1, gateways=0) as mesh:
        gateway = await mesh.add_gateway(0, unseeing)
        async with connected(gateway.address) as client:
            for number in range(8):
                await client.create(f"s{number}")
                assert (await client.turn(turn_request(f"s{number}", "Here?"))).receipt.shard == f"{STORE}-0"
            await mesh.add_shard(1)
            await eventually(lambda: _knows(mesh, f"{STORE}-0", 8), message="the first shard knows of the second")
            turns = [await client.turn(turn_request(f"s{number}", "And now?")) for number in range(8)]
            opened = {turn.receipt.shard for turn in turns}
            assert {len(await client.texts(f"s{number}")) for number in range(8)} == {4}
        # The gateway commits where its own view says, and that is served, too.
        assert opened == {f"{STORE}-0"}
        assert _held(mesh, f"{STORE}-1") > 0


def _shard(mesh: Mesh, member_id: str) -> ContextStoreRoom:
    room = mesh.rooms[member_id]
    assert isinstance(room, ContextStoreRoom)
    return room


def _held(mesh: Mesh, member_id: str) -> int:
    """How many sessions a shard has a copy of."""
    store = _shard(mesh, member_id).store
    return len(store.sessions) if store else 0


def _knows(mesh: Mesh, member_id: str, count: int) -> bool:
    """Whether a shard sees that some of the sessions `s0`, `s1`, … are another's."""
    store = _shard(mesh, member_id).store
    return store is not None and any(store.ownership.is_elsewhere(Keys("local", f"s{each}")) for each in range(count))


async def test_turns_go_on_while_shards_join_drain_and_leave(quick: Settings) -> None:
    """Steady turns of many sessions, with the heartbeats that a mesh has by default."""
    usual = quick.model_copy(update={"membership": MembershipSettings()})
    async with running_mesh(usual, shards=2) as mesh, connected(mesh.grpc_target) as client:
        sessions = [f"s{number}" for number in range(16)]
        ended = asyncio.Event()
        done = Counter[str]()
        served = Counter[str]()

        async def talk(session: str) -> None:
            await client.create(session)
            while not ended.is_set():
                number = done[session] + 1
                turn = await client.turn(turn_request(session, f"Question {number}?", f"r{number}"))
                assert (turn.state, turn.number, turn.attempt) == (turn_pb2.Turn.STATE_DONE, number, 1)
                done[session] = number
                served[turn.receipt.shard] += 1

        async def served_by(member_id: str) -> None:
            before = served[member_id]
            await eventually(lambda: talks.done() or served[member_id] > before + 10, message=f"{member_id} serves")

        talks = asyncio.gather(*map(talk, sessions))
        for joining, leaving in ((2, 0), (3, 1), (0, 2)):
            await mesh.add_shard(joining)
            await served_by(f"{STORE}-{joining}")
            await mesh.remove(f"{STORE}-{leaving}", drain=True)
            await served_by(f"{STORE}-{joining}")
        ended.set()
        await talks
        for session in sessions:
            texts = await client.texts(session)
            assert texts[::2] == [f"Question {number}?" for number in range(1, done[session] + 1)]
            assert len(texts) == 2 * done[session]


async def test_sessions_are_read_through_the_loss_of_their_shard(mesh: Mesh, client: Client) -> None:
    await client.create("s1")
    turn = await client.turn(turn_request("s1", "Keep this."))
    await mesh.remove(turn.receipt.shard)
    assert await client.texts("s1") == ["Keep this.", turn.output_text]
    assert (await client.get_turn(turn.name)).output_text == turn.output_text


async def test_a_gateway_that_is_stopped_leaves_its_turn_to_whoever_asks_next(slow: Settings) -> None:
    quick_end = changed(changed(slow, "inference", scripted_output_tokens=60), "gateway", lease_ms=60_000)
    async with running_mesh(quick_end, gateways=2) as mesh, connected(mesh.gateway_room(1).address) as other:
        request = turn_request("s1", "Cut off.", "r1")
        async with connected(mesh.grpc_target) as client:
            await client.create("s1")
            call = client.stub.RunTurn(request)
            await anext(event async for event in call if event.HasField("delta"))
            await mesh.remove("gateway-0")
        assert await eventually(lambda: not mesh.generating(), message="generation ends")
        turn = await other.turn(request)
    assert (turn.state, turn.number, turn.attempt) == (turn_pb2.Turn.STATE_DONE, 1, 2)
