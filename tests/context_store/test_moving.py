"""Sessions whose shard changes: who serves them, what the old shard lets go of, and what a drain waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import grpc
import pytest
import pytest_asyncio
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceStub
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2
from redis.asyncio import Redis

from context_store.hot.hot_session import HotSession
from context_store.hot.ownership import moved_to
from context_store.hot.sessions import Slot
from context_store.log.keys import Keys
from context_store.room import ContextStoreRoom
from context_store.store import StaleError, Store
from services.config import Settings
from services.errors import IsthmusError
from services.lifecycle import RoomContext, State
from services.membership import Member, View
from services.ring import Ring
from services.router import STORE, session_key
from services.rpc import redirects
from tests.context_store.client import TENANT, StoreClient, refusal
from tests.support.eventually import WAIT_S_MAX, eventually
from tests.support.mesh import changed

ME, OTHER = "store-1", "store-2"


class Shard:
    """A shard in this process and a caller of it who was not redirected."""

    def __init__(self, room: ContextStoreRoom, context: RoomContext, client: StoreClient) -> None:
        self.room = room
        self.state = context.lifecycle
        self.client = client

    @property
    def store(self) -> Store:
        assert self.room.store
        return self.room.store

    def sees(self, other: str, session: str) -> bool:
        """Whether its view gives the session to another shard."""
        try:
            self.store.ownership.check(Keys(TENANT, session), is_redirected=False, is_open=False)
        except IsthmusError as error:
            return error.metadata["owner"] == other
        return False


StartShard = Callable[..., Awaitable[Shard]]


@pytest_asyncio.fixture
async def start(settings: Settings) -> AsyncIterator[StartShard]:
    """Starts one more shard: `store-1`, `store-2`, …"""
    async with AsyncExitStack() as stack:
        count = 0

        async def add(own: Settings = settings) -> Shard:
            nonlocal count
            count += 1
            context = RoomContext(own, f"store-{count}", "127.0.0.1:0")
            room = ContextStoreRoom(context)
            stack.push_async_callback(room.stop)
            await room.start()
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(room.address))
            return Shard(room, context, StoreClient(ContextServiceStub(channel)))

        yield add


def session_of(settings: Settings, owner: str) -> str:
    """The name of a session that the ring of both shards gives to one of them."""
    membership = settings.membership
    ring = Ring({ME: 1.0, OTHER: 1.0}, membership.ring_virtual_nodes, membership.ring_slots_count, 1.125)
    return next(f"s{number}" for number in range(100) if ring.owner(session_key(TENANT, f"s{number}")) == owner)


async def moved(start: StartShard, settings: Settings) -> tuple[Shard, Shard, str]:
    """Two shards that know of one another, and a session of one turn that the second has taken from the first."""
    here = await start()
    session = session_of(settings, OTHER)
    await here.client.about(session).create()
    await here.client.about(session).turn("r1", "question")
    there = await start()
    await eventually(lambda: here.sees(OTHER, session), message="the first shard sees the second")
    await eventually(lambda: not there.sees(ME, session), message="the second sees itself")
    return here, there, session


@pytest.mark.parametrize(
    ("owner", "is_redirected", "is_open", "goes"),
    [
        (None, False, False, False),
        (ME, False, False, False),
        (OTHER, False, False, True),
        (OTHER, True, False, False),
        (OTHER, False, True, False),
    ],
)
def test_who_serves(owner: str | None, is_redirected: bool, is_open: bool, goes: bool) -> None:
    member = Member(owner, STORE, "127.0.0.1:1") if owner else None
    assert moved_to(ME, member, is_redirected=is_redirected, is_open=is_open) == (member if goes else None)


async def test_a_shard_sends_the_caller_to_the_owner(start: StartShard, settings: Settings) -> None:
    here, there, session = await moved(start, settings)
    old, new = here.client.about(session), there.client.about(session)
    for call in (
        old.open("next", request_id="r2"),
        old.append("more"),
        old.get(),
        old.fragments(),
        old.stub.PreviewWindow(api.PreviewWindowRequest(key=old.key, window_tokens_max=1_000)),
    ):
        code, reason, metadata, _ = await refusal(call)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SESSION_MOVED")
        assert metadata == {"owner": OTHER, "endpoint": there.room.address}
    assert (await new.open("next", request_id="r2")).turn.number == 2


async def test_who_was_redirected_is_served_wherever_it_comes_to(start: StartShard, settings: Settings) -> None:
    here, _, session = await moved(start, settings)
    old = here.client.about(session)
    opened = await old.stub.OpenTurn(old.open_request("next", request_id="r2"), metadata=redirects.METADATA)
    assert opened.turn.number == 2


async def test_an_open_turn_is_finished_wherever_it_is_asked_for(start: StartShard, settings: Settings) -> None:
    here, there, session = await moved(start, settings)
    old, new = here.client.about(session), there.client.about(session)
    opened = await new.open("next", request_id="r2")
    _, items = await old.window(opened.manifest)
    assert [item.text for item in items] == ["question", "ok", "next"]
    done = await old.commit(opened, "answer")
    assert (await new.open("then", request_id="r3")).turn.number == done.turn.number + 1


async def test_a_change_is_not_redirected_once_it_is_made(start: StartShard, settings: Settings) -> None:
    here, _, session = await moved(start, settings)
    old = here.client.about(session)
    request = api.UpdateSessionRequest(key=old.key, session=session_pb2.Session(display_name="renamed"))
    assert (await old.stub.UpdateSession(request)).display_name == "renamed"


async def test_copies_of_sessions_that_moved_are_let_go_of(start: StartShard, settings: Settings) -> None:
    small = changed(settings, "store", moving_batch_count_max=7)
    here = await start(small)
    sessions = [f"s{number}" for number in range(40)]
    for session in sessions:
        await here.client.about(session).create()
        await here.client.about(session).get()
    await start(small)
    await eventually(lambda: here.sees(OTHER, session_of(settings, OTHER)), message="the second is seen")
    kept = [session for session in sessions if not here.sees(OTHER, session)]
    assert 0 < len(kept) < len(sessions)
    await eventually(lambda: {keys.session for keys in here.store.sessions.held()} == set(kept), message="copies go")
    assert here.store.sessions.memory_bytes == pytest.approx(len(kept) * 5_000, rel=0.5)


async def test_the_copy_of_an_open_turn_is_kept_until_the_turn_ends(start: StartShard, settings: Settings) -> None:
    here = await start()
    session = session_of(settings, OTHER)
    old = here.client.about(session)
    await old.create()
    opened = await old.open("question", request_id="r1")
    there = await start()
    await eventually(lambda: here.sees(OTHER, session), message="the second is seen")
    again = await old.open("question", request_id="r1")
    assert again.turn.number == opened.turn.number
    assert here.store.sessions.held() == [Keys(TENANT, session)]
    await there.client.about(session).commit(opened, "answer")
    await eventually(lambda: not here.store.sessions.held(), message="the copy goes")


async def test_a_shard_that_has_lost_a_session_drops_its_copy_and_says_so(
    start: StartShard, settings: Settings
) -> None:
    here = await start()
    session = session_of(settings, OTHER)
    await here.client.about(session).create()
    planned = 0

    async def change(slot: Slot, hot: HotSession) -> None:
        nonlocal planned
        planned += 1
        await start()
        await eventually(lambda: here.sees(OTHER, session), message="the second is seen")
        raise StaleError

    with pytest.raises(IsthmusError) as caught:
        await here.store.write(Keys(TENANT, session), change, at_owner=True)
    assert caught.value.reason == errors_pb2.ERROR_REASON_SESSION_MOVED
    assert planned == 1
    assert not here.store.sessions.held()


async def test_a_drain_waits_for_the_turns_that_are_open_here(start: StartShard, settings: Settings) -> None:
    here, there = await start(), await start()
    session = session_of(settings, ME)
    old, new = here.client.about(session), there.client.about(session)
    await old.create()
    opened = await old.open("question", request_id="r1")
    draining = asyncio.create_task(here.room.drain())
    await eventually(lambda: here.state.state is State.DRAINING, message="it drains")
    assert (await refusal(old.open("more", request_id="r2")))[1] == "NOT_READY"
    # Served while it drains, which is what the drain waits for.
    waiting = api.WaitTurnRequest(key=old.key, turn=opened.turn.number)
    waiting.timeout.FromMilliseconds(100)
    assert not (await old.stub.WaitTurn(waiting)).lease_lapsed
    assert not draining.done()
    await new.commit(opened, "answer")
    await asyncio.wait_for(draining, 5)


async def test_a_drain_waits_no_longer_than_it_may(start: StartShard, settings: Settings) -> None:
    here = await start(changed(settings, "rpc", drain_ms_max=100))
    await here.client.create()
    await here.client.open("question", lease_ms=60_000)
    await asyncio.wait_for(here.room.drain(), 5)


async def test_a_lease_that_has_lapsed_holds_up_no_drain(start: StartShard) -> None:
    here = await start()
    await here.client.create()
    await here.client.open("question", lease_ms=60)
    await asyncio.wait_for(here.room.drain(), 5)


async def test_joining_draining_and_leaving_are_told_and_not_waited_for(
    start: StartShard, settings: Settings, valkey: Redis
) -> None:
    """With the heartbeats that a mesh has by default, but members that are never taken for dead."""
    usual = settings.model_copy(update={"membership": type(settings.membership)(member_ttl_ms=600_000)})
    view = View(valkey, usual.membership, rooms=(STORE,))
    await view.start()
    shard = await start(usual)
    await eventually(lambda: view.ready(STORE), message="it has joined")
    draining = asyncio.create_task(shard.room.drain())
    await eventually(lambda: not view.ready(STORE), message="it drains")
    await draining
    assert view.members(STORE)
    await shard.room.stop()
    await eventually(lambda: not view.members(STORE), message="it has left")
    await view.stop()


async def test_a_shard_announces_its_weight(start: StartShard, settings: Settings, valkey: Redis) -> None:
    await start(changed(settings, "membership", weight=2.5))
    view = View(valkey, settings.membership, rooms=(STORE,))
    await view.start()
    async with asyncio.timeout(WAIT_S_MAX):
        [member] = await view.wait_for(STORE)
    assert member.weight == 2.5
    await view.stop()
