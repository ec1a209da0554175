"""Sessions keep their replica until it has its share of the load, go elsewhere then, and come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from services.router import INFERENCE
from tests.gateway.client import Client, connected, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh

OWNER = turn_pb2.Placement.REASON_OWNER
SPILLED = turn_pb2.Placement.REASON_SPILLED
BRIEF = message_pb2.SamplingParams(max_output_tokens=1)


@pytest.fixture
def bending(slow: Settings) -> Settings:
    """Replies that take 30 s, or none of it where one token is asked for; every request counts."""
    return changed(slow, "gateway", spill_requests_count_min=0)


async def brief_turn(client: Client, session: str) -> turn_pb2.Receipt:
    """A turn that is over at once."""
    return (await client.turn(turn_request(session, "Where? " * 40, params=BRIEF))).receipt


async def of_one_replica(client: Client, count: int) -> list[str]:
    """So many sessions of the same replica."""
    homes: dict[str, list[str]] = {}
    for number in range(100):
        await client.create(f"s{number}")
        # The turn before may still be announced as load: then it is not the owner that serves this one.
        receipt = await brief_turn(client, f"s{number}")
        sessions = homes.setdefault(receipt.placement.owner, [])
        sessions.append(f"s{number}")
        if len(sessions) == count:
            return sessions
    raise AssertionError("a hundred sessions of so few replicas")


@asynccontextmanager
async def busy(client: Client, *sessions: str) -> AsyncIterator[None]:
    """While inside, each of the sessions has a turn whose text comes."""
    async with AsyncExitStack() as calls:
        for session in sessions:
            call = client.stub.RunTurn(turn_request(session, "Keep going."))
            calls.callback(call.cancel)
            await anext(event async for event in call if event.HasField("delta"))
        yield


async def calm(mesh: Mesh) -> None:
    """Waits until nobody generates, nor is said to."""
    await eventually(lambda: not mesh.generating(), message="all is calm")
    await known(mesh, 0)


async def known(mesh: Mesh, load: int) -> None:
    """Waits until all replicas have announced three times that they have so much to do together.

    A gateway may have read the one before the last by then, and that one may be from a moment before.
    """
    for _ in range(3):
        before = {member.id: member.heartbeat_ms for member in mesh.view.ready(INFERENCE)}
        await eventually(partial(is_announced, mesh, load, before), message="the load is announced")


def is_announced(mesh: Mesh, load: int, since: Mapping[str, int]) -> bool:
    """Whether all replicas have had a heartbeat since, and together so much to do."""
    members = mesh.view.ready(INFERENCE)
    return sum(each.load for each in members) == load and all(each.heartbeat_ms > since[each.id] for each in members)


async def test_a_session_spills_where_it_is_warm_and_returns_when_its_owner_is_calm(bending: Settings) -> None:
    async with running_mesh(bending, shards=1, replicas=3) as mesh, connected(mesh.grpc_target) as client:
        guest, *hosts = await of_one_replica(client, 4)
        await calm(mesh)
        home = (await brief_turn(client, guest)).replica
        await calm(mesh)
        async with busy(client, *hosts):
            away = await brief_turn(client, guest)
            assert (away.placement.reason, away.placement.owner) == (SPILLED, home)
            assert away.replica != home
            assert away.placement.missed_tokens > 0
            # A heartbeat from while that turn ran would show a replica with more to do than it has.
            await known(mesh, len(hosts))
            again = await brief_turn(client, guest)
            assert (again.replica, again.placement.reason) == (away.replica, SPILLED)
            assert again.placement.missed_tokens == 0
            assert again.tokens.reused_tokens > away.tokens.window_tokens / 2
        await calm(mesh)
        back = await brief_turn(client, guest)
        assert (back.replica, back.placement.reason) == (home, OWNER)


async def test_the_load_of_other_gateways_counts(bending: Settings) -> None:
    unbending = changed(bending, "gateway", spill_requests_count_min=100)
    async with running_mesh(bending, shards=1, replicas=2) as mesh, connected(mesh.grpc_target) as client:
        gateway = await mesh.add_gateway(1, unbending)
        async with connected(gateway.address) as other:
            guest, *hosts = await of_one_replica(other, 4)
            await calm(mesh)
            home = (await brief_turn(client, guest)).replica
            async with busy(other, *hosts):

                async def spills() -> bool:
                    placement = (await brief_turn(client, guest)).placement
                    assert placement.owner == home
                    return placement.reason == SPILLED

                await eventually(spills, message="the gateway hears of the load by the heartbeat")


async def test_a_replica_with_little_to_do_keeps_its_sessions(slow: Settings) -> None:
    async with running_mesh(slow, shards=1, replicas=2) as mesh, connected(mesh.grpc_target) as client:
        guest, *hosts = await of_one_replica(client, 4)
        async with busy(client, *hosts):
            assert (await brief_turn(client, guest)).placement.reason == OWNER


async def test_a_replica_that_refuses_is_passed_over_and_when_all_do_the_caller_is_told(slow: Settings) -> None:
    narrow = changed(slow, "inference", requests_running_max=1, requests_waiting_max=0)
    async with running_mesh(narrow, shards=1, replicas=2) as mesh, connected(mesh.grpc_target) as client:
        guest, first, second = await of_one_replica(client, 3)
        home = (await brief_turn(client, guest)).replica
        async with busy(client, first):
            receipt = await brief_turn(client, guest)
            assert (receipt.placement.reason, receipt.placement.owner) == (SPILLED, home)
            assert receipt.replica != home
            async with busy(client, second):
                assert len(mesh.generating()) == 2
                refused = await client.outcome(turn_request(guest, "And now?"))
                assert isinstance(refused, IsthmusError)
                assert refused.reason == errors_pb2.ERROR_REASON_OVERLOADED
                assert refused.retry_after_ms
