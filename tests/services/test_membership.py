"""Membership over a real Valkey: members come, drain, go and die, and Valkey itself may go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.config import Settings
from services.lifecycle import Lifecycle, State
from services.membership import Announcer, Member, View, advertised, members_key
from tests.support.eventually import eventually
from tests.support.valkey_server import ValkeyServer

ROOM = "context_store"


class Party:
    """Announces members and stops them all at the end."""

    def __init__(self, valkey: Redis, settings: Settings) -> None:
        self._valkey, self._settings = valkey, settings
        self._announcers: dict[str, Announcer] = {}
        self.lifecycles: dict[str, Lifecycle] = {}

    async def join(self, member_id: str, state: State = State.READY, **fields: object) -> None:
        lifecycle = self.lifecycles[member_id] = Lifecycle()
        member = Member(member_id, ROOM, f"127.0.0.1:{len(self._announcers)}", **fields)  # type: ignore[arg-type]
        announcer = Announcer(self._valkey, self._settings.membership, member, lifecycle)
        self._announcers[member_id] = announcer
        await announcer.start()
        if state is not State.STARTING:
            lifecycle.move(state)

    async def leave(self, member_id: str) -> None:
        await self._announcers.pop(member_id).stop()

    def die(self, member_id: str) -> None:
        """As kill -9 would have it: the heartbeat ends and nothing is said."""
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == f"announce {member_id}"]
        task.cancel()

    async def end(self) -> None:
        for member_id in tuple(self._announcers):
            await self.leave(member_id)


@pytest_asyncio.fixture
async def party(valkey: Redis, settings: Settings) -> AsyncIterator[Party]:
    party = Party(valkey, settings)
    yield party
    await party.end()


@pytest_asyncio.fixture
async def view(valkey: Redis, settings: Settings) -> AsyncIterator[View]:
    watching = View(valkey, settings.membership)
    await watching.start()
    yield watching
    await watching.stop()


def ids(view: View) -> Callable[[], list[str]]:
    return lambda: [member.id for member in view.ready(ROOM)]


async def test_a_member_is_seen_as_it_announced_itself(party: Party, view: View) -> None:
    await party.join("store-0", weight=2.0, labels={"model": "m", "engine": "local"})
    (member,) = await view.wait_for(ROOM)
    assert (member.id, member.room, member.state, member.weight) == ("store-0", ROOM, State.READY, 2.0)
    assert member.labels == {"model": "m", "engine": "local"}
    assert member.heartbeat_ms > 0


async def test_a_view_that_starts_later_sees_those_who_are_there(
    party: Party, view: View, valkey: Redis, settings: Settings
) -> None:
    await party.join("store-0")
    await view.wait_for(ROOM)
    second = View(valkey, settings.membership)
    await second.start()
    assert ids(second)() == ["store-0"]
    await second.stop()


async def test_only_ready_members_take_work(party: Party, view: View) -> None:
    await party.join("store-0", State.STARTING)
    await party.join("store-1")
    await view.wait_for(ROOM)
    await eventually(lambda: len(view.members(ROOM)) == 2)
    assert ids(view)() == ["store-1"]
    party.lifecycles["store-0"].move(State.READY)
    assert [member.id for member in await view.wait_for(ROOM, 2)] == ["store-0", "store-1"]
    party.lifecycles["store-1"].move(State.DRAINING)
    await eventually(lambda: ids(view)() == ["store-0"])
    assert len(view.members(ROOM)) == 2


async def test_a_change_of_state_does_not_wait_for_the_next_heartbeat(valkey: Redis, settings: Settings) -> None:
    slow = settings.membership.model_copy(update={"heartbeat_interval_ms": 60_000, "member_ttl_ms": 300_000})
    lifecycle = Lifecycle()
    announcer = Announcer(valkey, slow, Member("store-0", ROOM, "127.0.0.1:1"), lifecycle)
    await announcer.start()

    async def announced() -> str:
        payload = await valkey.hget(members_key(ROOM), "store-0")
        return str(json.loads(payload)["state"]) if payload else ""

    assert await eventually(announced) == "starting"
    lifecycle.move(State.READY)

    async def is_ready() -> bool:
        return await announced() == "ready"

    await eventually(is_ready)
    await announcer.stop()


async def test_each_heartbeat_says_the_load_which_is_no_change_of_the_members(
    view: View, valkey: Redis, settings: Settings
) -> None:
    lifecycle, load = Lifecycle(), [3]
    member = Member("replica-0", ROOM, "127.0.0.1:1")
    announcer = Announcer(valkey, settings.membership, member, lifecycle, lambda: load[0])
    await announcer.start()
    lifecycle.move(State.READY)
    (seen,) = await view.wait_for(ROOM)
    version = view.version(ROOM)
    assert seen.load == 3
    load[0] = 8
    await eventually(lambda: view.members(ROOM)[0].load == 8)
    assert view.version(ROOM) == version
    await announcer.stop()


async def test_a_member_that_stops_is_gone_at_once(party: Party, view: View, valkey: Redis) -> None:
    await party.join("store-0")
    await view.wait_for(ROOM)
    await party.leave("store-0")
    assert await valkey.hgetall(members_key(ROOM)) == {}
    await eventually(lambda: not view.members(ROOM))


async def test_a_member_that_dies_is_swept_by_the_others(party: Party, view: View, valkey: Redis) -> None:
    await party.join("dead")
    await party.join("alive")
    await view.wait_for(ROOM, 2)
    party.die("dead")
    await eventually(lambda: ids(view)() == ["alive"])

    async def swept() -> bool:
        return await valkey.hkeys(members_key(ROOM)) == [b"alive"]

    await eventually(swept)


@pytest.mark.parametrize("rubbish", [b"", b"{}", b"[1]", b'{"heartbeat_ms":99999999999999,"state":"odd"}', b"\xff"])
async def test_a_strangers_entry_harms_nobody(party: Party, view: View, valkey: Redis, rubbish: bytes) -> None:
    await valkey.hset(members_key(ROOM), b"stranger\xff", rubbish)
    await party.join("store-0")
    (member,) = await view.wait_for(ROOM)
    await eventually(lambda: view.members(ROOM)[0].heartbeat_ms > member.heartbeat_ms)
    assert ids(view)() == ["store-0"]


async def test_nothing_is_left_when_all_have_died(valkey: Redis, party: Party, view: View) -> None:
    await party.join("dead")
    await view.wait_for(ROOM)
    party.die("dead")

    async def nothing() -> bool:
        return await valkey.keys("*") == []

    await eventually(nothing)


async def test_versions_rise_with_changes_alone(party: Party, view: View) -> None:
    await party.join("store-0")
    (member,) = await view.wait_for(ROOM)
    version = view.version(ROOM)
    await eventually(lambda: view.members(ROOM)[0].heartbeat_ms > member.heartbeat_ms)
    assert view.version(ROOM) == version
    await party.join("store-1")
    await view.wait_for(ROOM, 2)
    assert view.version(ROOM) > version
    assert view.version("gateway") == 0


@pytest.mark.parametrize("forgets", [True, False])
async def test_a_restart_of_valkey_empties_no_view(
    party: Party, view: View, valkey_server: ValkeyServer, valkey: Redis, forgets: bool
) -> None:
    await party.join("store-0")
    await party.join("store-1")
    await view.wait_for(ROOM, 2)
    version = view.version(ROOM)
    before = view.members(ROOM)[0].heartbeat_ms
    valkey_server.kill()
    await eventually(lambda: view.away)
    assert ids(view)() == ["store-0", "store-1"]
    valkey_server.start()
    await eventually(lambda: view.members(ROOM)[0].heartbeat_ms > before)
    assert ids(view)() == ["store-0", "store-1"]
    assert view.version(ROOM) == version

    async def announced_again() -> bool:
        return await valkey.hlen(members_key(ROOM)) == 2

    await eventually(announced_again)


async def test_a_member_that_died_with_valkey_is_dropped_in_time(
    party: Party, view: View, valkey_server: ValkeyServer
) -> None:
    await party.join("store-0")
    await party.join("store-1")
    await view.wait_for(ROOM, 2)
    valkey_server.kill()
    party.die("store-1")
    await eventually(lambda: view.away)
    valkey_server.start()
    await eventually(lambda: ids(view)() == ["store-0"])


async def test_a_view_starts_without_valkey_and_sees_it_later(
    settings: Settings, valkey: Redis, valkey_server: ValkeyServer, party: Party
) -> None:
    valkey_server.kill()
    view = View(valkey, settings.membership)
    await view.start()
    assert view.members(ROOM) == ()
    await party.join("store-0")
    valkey_server.start()
    assert [member.id for member in await view.wait_for(ROOM)] == ["store-0"]
    await view.stop()


@pytest.mark.parametrize(
    ("advertise", "endpoint"),
    [
        (None, "0.0.0.0:7000"),
        ("10.1.2.3", "10.1.2.3:7000"),
        ("store-0.store", "store-0.store:7000"),
        ("store-0.store:9", "store-0.store:9"),
        ("fd00::1", "[fd00::1]:7000"),
        ("[fd00::1]", "[fd00::1]:7000"),
        ("[fd00::1]:9", "[fd00::1]:9"),
    ],
)
async def test_others_are_told_where_a_member_is_reached(
    advertise: str | None, endpoint: str, valkey: Redis, settings: Settings, view: View
) -> None:
    theirs = settings.membership.model_copy(update={"advertise": advertise})
    assert advertised("0.0.0.0:7000", theirs) == endpoint
    lifecycle = Lifecycle()
    announcer = Announcer(valkey, theirs, Member("store-0", ROOM, "0.0.0.0:7000"), lifecycle)
    await announcer.start()
    lifecycle.move(State.READY)
    assert [member.endpoint for member in await view.wait_for(ROOM)] == [endpoint]
    await announcer.stop()
