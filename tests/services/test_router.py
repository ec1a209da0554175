"""Routing: a session keeps its member for as long as the member is ready, and nobody waits for the answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1.turn_pb2 import Placement
from redis.asyncio import Redis

from services.config import Settings
from services.errors import IsthmusError
from services.lifecycle import State
from services.membership import Member, View
from services.router import INFERENCE, STORE, Router
from services.rpc import Channels

SESSIONS = [f"s{number}" for number in range(200)]


class KnownView(View):
    """A view whose members the test decides; it polls nothing."""

    def __init__(self, valkey: Redis, settings: Settings) -> None:
        super().__init__(valkey, settings.membership)

    def show(self, *members: Member) -> None:
        for room in (STORE, INFERENCE):
            self._see(room, {member.id: member for member in members if member.room == room}, keep=False)


def store(number: int, state: State = State.READY, heartbeat_ms: int = 1) -> Member:
    return Member(f"store-{number}", STORE, f"127.0.0.1:{1000 + number}", state, heartbeat_ms=heartbeat_ms)


def replica(number: int, model: str = "small", state: State = State.READY, adapters: str = "") -> Member:
    labels = {"model": model, "adapters": adapters}
    return Member(f"replica-{number}", INFERENCE, f"127.0.0.1:{2000 + number}", state, 1.0, labels, heartbeat_ms=1)


@pytest.fixture
def view(settings: Settings) -> KnownView:
    return KnownView(Redis(), settings)


@pytest_asyncio.fixture
async def router(view: KnownView, settings: Settings) -> AsyncIterator[Router]:
    channels = Channels(settings.rpc, "gateway")
    yield Router(view, channels, settings.membership)
    await channels.aclose()


def owners(router: Router) -> dict[str, str]:
    return {session: router.store("local", session)[0] for session in SESSIONS}


async def test_a_session_has_one_shard_and_its_channel(view: KnownView, router: Router) -> None:
    view.show(store(0), store(1))
    member_id, channel = router.store("local", "s1")
    assert router.store("local", "s1") == (member_id, channel)
    assert set(owners(router).values()) == {"store-0", "store-1"}


async def test_tenants_are_part_of_the_key(view: KnownView, router: Router) -> None:
    view.show(*map(store, range(8)))
    assert len({router.store(f"tenant-{number}", "s1")[0] for number in range(100)}) > 1


async def test_a_draining_shard_takes_nothing_and_the_others_keep_theirs(view: KnownView, router: Router) -> None:
    view.show(store(0), store(1), store(2))
    before = owners(router)
    view.show(store(0), store(1, State.DRAINING), store(2))
    after = owners(router)
    assert "store-1" not in after.values()
    assert all(after[session] == owner for session, owner in before.items() if owner != "store-1")


async def test_no_shard_is_unavailable_with_a_time_to_retry(view: KnownView, router: Router) -> None:
    view.show(store(0, State.STARTING))
    with pytest.raises(IsthmusError, match="no member of context_store is ready") as caught:
        router.store("local", "s1")
    assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert caught.value.retry_after_ms is not None


async def test_a_new_endpoint_of_the_same_member_is_followed(view: KnownView, router: Router) -> None:
    view.show(store(0))
    _, before = router.store("local", "s1")
    view.show(replace(store(0), endpoint="127.0.0.1:9999"))
    _, after = router.store("local", "s1")
    assert after is not before


async def test_a_suspect_is_left_out_until_its_next_heartbeat(view: KnownView, router: Router) -> None:
    view.show(store(0), store(1))
    before = owners(router)
    router.suspect(STORE, "store-0")
    assert set(owners(router).values()) == {"store-1"}
    view.show(store(0, heartbeat_ms=2), store(1, heartbeat_ms=2))
    assert owners(router) == before


async def test_a_stand_in_does_not_own_what_it_is_asked_for(view: KnownView, router: Router) -> None:
    view.show(store(0), store(1))
    home, _ = router.store("local", "s1")
    assert router.owns(home, "local", "s1")
    router.suspect(STORE, home)
    stand_in, _ = router.store("local", "s1")
    assert stand_in != home
    assert router.owns(home, "local", "s1")
    assert not router.owns(stand_in, "local", "s1")


async def test_shards_that_drain_finish_what_is_open_when_no_other_is_there(view: KnownView, router: Router) -> None:
    view.show(store(0, State.DRAINING))
    assert router.store("local", "s1")[0] == "store-0"
    assert not router.owns("store-0", "local", "s1")


async def test_a_shard_gets_sessions_by_its_weight(view: KnownView, router: Router) -> None:
    view.show(store(0), replace(store(1), weight=3.0))
    owned = Counter(owners(router).values())
    assert 1.8 < owned["store-1"] / owned["store-0"] < 5


async def test_a_suspect_replica_is_passed_over_whatever_the_load(view: KnownView, router: Router) -> None:
    view.show(replica(0), replica(1))
    router.suspect(INFERENCE, "replica-0")
    assert {router.inference("local", session, {"replica-1": 50})[0].id for session in SESSIONS} == {"replica-1"}


async def test_when_all_are_suspect_all_are_asked(view: KnownView, router: Router) -> None:
    view.show(store(0), store(1))
    before = owners(router)
    for member_id in ("store-0", "store-1", "never-seen"):
        router.suspect(STORE, member_id)
    assert owners(router) == before


async def test_a_session_goes_to_its_replica_until_that_is_overloaded(view: KnownView, router: Router) -> None:
    view.show(replica(0), replica(1))
    home, channel = router.inference("local", "s1", {})
    assert router.inference("local", "s1", {home.id: 1})[0].id == home.id
    assert router.inference("local", "s1", {home.id: 4})[0].id != home.id
    assert router.inference("local", "s1", {"replica-0": 3, "replica-1": 3}) == (home, channel)


async def test_load_spreads_over_replicas(view: KnownView, router: Router) -> None:
    view.show(replica(0), replica(1), replica(2))
    load = Counter[str]()
    for session in SESSIONS:
        load[router.inference("local", session, load)[0].id] += 1
    assert max(load.values()) <= 1.25 * len(SESSIONS) / 3 + 1


async def test_a_model_has_its_own_replicas(view: KnownView, router: Router) -> None:
    view.show(replica(0, "small"), replica(1, "large"))
    assert {router.inference("local", session, {}, "large")[0].id for session in SESSIONS} == {"replica-1"}
    with pytest.raises(IsthmusError, match="no replica serves 'huge'; expected one of large, small") as caught:
        router.inference("local", "s1", {}, "huge")
    assert caught.value.reason == errors_pb2.ERROR_REASON_MODEL_NOT_FOUND


async def test_an_adapter_is_served_where_its_model_is(view: KnownView, router: Router) -> None:
    view.show(replica(0), replica(1, adapters="pirate,poet"), replica(2, adapters="poet"))
    assert {router.inference("local", session, {}, "pirate")[0].id for session in SESSIONS} == {"replica-1"}
    assert {router.inference("local", session, {}, "poet")[0].id for session in SESSIONS} == {"replica-1", "replica-2"}
    assert len({router.inference("local", session, {}, "small")[0].id for session in SESSIONS}) == 3
    with pytest.raises(IsthmusError, match="expected one of pirate, poet, small"):
        router.inference("local", "s1", {}, "prose")


async def test_a_place_says_why_it_is_not_the_owner(view: KnownView, router: Router) -> None:
    view.show(*map(replica, range(3)))
    home = router.place("local", "s1", {})
    assert (home.choice.reason, home.choice.owner) == (Placement.REASON_OWNER, home.member.id)
    first, second = router.place("local", "s1", {home.member.id: 9}), home.member.id
    assert (first.choice.reason, first.choice.owner) == (Placement.REASON_SPILLED, second)
    [other] = {f"replica-{number}" for number in range(3)} - {home.member.id, first.member.id}
    assert router.place("local", "s1", {home.member.id: 9}, warm=other).member.id == other
    assert router.place("local", "s1", {home.member.id: 9}, free=10).member == home.member
    refused = router.place("local", "s1", {}, full={home.member.id})
    assert (refused.member, refused.choice.reason) == (first.member, Placement.REASON_SPILLED)
    with pytest.raises(LookupError):
        router.place("local", "s1", {}, full={f"replica-{number}" for number in range(3)})


async def test_a_replica_that_drains_is_away_and_still_says_whose_the_sessions_are(
    view: KnownView, router: Router
) -> None:
    view.show(*map(replica, range(3)))
    before = {session: router.place("local", session, {}).member.id for session in SESSIONS}
    view.show(replica(0), replica(1, state=State.DRAINING), replica(2))
    for session, home in before.items():
        choice = router.place("local", session, {}).choice
        assert choice.owner == home
        assert choice.member != "replica-1"
        assert (choice.reason == Placement.REASON_AWAY) == (home == "replica-1")
    router.suspect(INFERENCE, "replica-0")
    assert {router.place("local", session, {}).member.id for session in SESSIONS} == {"replica-2"}
    router.suspect(INFERENCE, "replica-2")
    served = {router.place("local", session, {}).member.id for session in SESSIONS}
    assert served == {"replica-0", "replica-2"}, "all that are ready are asked, and none that drains"


async def test_an_answer_takes_less_than_building_a_ring(view: KnownView, router: Router) -> None:
    view.show(*map(store, range(32)))
    began = time.perf_counter()
    router.store("local", "s1")
    building = time.perf_counter() - began
    began = time.perf_counter()
    for session in SESSIONS:
        router.store("local", session)
    assert (time.perf_counter() - began) / len(SESSIONS) < building / 4
