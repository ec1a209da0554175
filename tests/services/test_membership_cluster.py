"""Membership on a cluster: one node's clock for all rooms, and a failover that empties no view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.config import MembershipSettings, Settings
from services.lifecycle import Lifecycle, State
from services.membership import ROOMS, Announcer, Member, View, members_key
from services.valkey import Client, connect
from tests.support.eventually import eventually
from tests.support.valkey_cluster import ValkeyCluster


@pytest.fixture
def membership(cluster_settings: Settings) -> MembershipSettings:
    """A time to live shorter than a failover, and longer than what a retry may wait after it."""
    return cluster_settings.membership.model_copy(update={"member_ttl_ms": 1_000})


@pytest_asyncio.fixture
async def client(cluster_settings: Settings) -> AsyncIterator[Client]:
    connected = connect(cluster_settings.valkey)
    yield connected
    await connected.aclose()


@pytest_asyncio.fixture
async def lifecycle(client: Client, membership: MembershipSettings) -> AsyncIterator[Lifecycle]:
    """Moves with one ready member in every room."""
    shared = Lifecycle()
    members = [Member(f"{room}-0", room, "127.0.0.1:1") for room in ROOMS]
    announcers = [Announcer(client, membership, member, shared) for member in members]
    for announcer in announcers:
        await announcer.start()
    shared.move(State.READY)
    yield shared
    for announcer in announcers:
        await announcer.stop()


@pytest_asyncio.fixture
async def view(client: Client, membership: MembershipSettings) -> AsyncIterator[View]:
    watching = View(client, membership)
    await watching.start()
    yield watching
    await watching.stop()


async def test_members_of_all_rooms_are_seen_and_their_states_followed(lifecycle: Lifecycle, view: View) -> None:
    for room in ROOMS:
        assert [member.id for member in await view.wait_for(room)] == [f"{room}-0"]
    lifecycle.move(State.DRAINING)
    await eventually(lambda: not any(view.ready(room) for room in ROOMS))
    assert all(view.members(room) for room in ROOMS)


async def test_a_failover_longer_than_a_members_time_to_live_empties_no_view(
    lifecycle: Lifecycle, view: View, valkey_cluster: ValkeyCluster
) -> None:
    for room in ROOMS:
        await view.wait_for(room)
    versions = [view.version(room) for room in ROOMS]
    before = view.members(ROOMS[0])[0].heartbeat_ms
    primary = valkey_cluster.primary_of(members_key(ROOMS[0]))
    valkey_cluster.kill(primary)
    await eventually(lambda: view.members(ROOMS[0])[0].heartbeat_ms > before + 500, timeout_s=30)
    for _ in range(150):
        assert [view.version(room) for room in ROOMS] == versions
        await asyncio.sleep(0.01)
    assert lifecycle.state is State.READY
