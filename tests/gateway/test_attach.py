"""A turn's output is read from any place, at any gateway; its readers come and go, and a lost driver is replaced."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import groupby

import pytest
import pytest_asyncio
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import Client, Event, connected, drained, kinds, text_of, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh

CUTS = 50
TOKENS = 100


@pytest.fixture
def paced(quick: Settings) -> Settings:
    """Replies of 100 tokens in about 2 s."""
    return changed(quick, "inference", scripted_output_tokens=TOKENS, scripted_tokens_per_s=50.0)


@pytest_asyncio.fixture
async def mesh(paced: Settings) -> AsyncIterator[Mesh]:
    async with running_mesh(paced, gateways=3) as running:
        yield running


@pytest_asyncio.fixture
async def clients(mesh: Mesh) -> AsyncIterator[list[Client]]:
    """One of each gateway."""
    async with AsyncExitStack() as stack:
        targets = [mesh.gateway_room(number).address for number in range(3)]
        yield [await stack.enter_async_context(connected(target)) for target in targets]


async def test_a_turn_that_goes_on_without_its_caller_is_read_to_its_end(clients: list[Client]) -> None:
    one, two, _ = clients
    await one.create("s1")
    call = one.stub.RunTurn(turn_request("s1", "I have to go.", "r1", on_disconnect=turn_pb2.ON_DISCONNECT_CONTINUE))
    heard = [await anext(aiter(call)), await anext(event async for event in call if event.HasField("delta"))]
    call.cancel()
    rest = await two.attached(heard[0].accepted.turn, heard[-1].delta.piece)
    turn = rest[-1].done.turn
    assert [kind for kind, _ in groupby(kinds(rest))] == ["accepted", "delta", "done"]
    assert (turn.state, turn.attempt) == (turn_pb2.Turn.STATE_DONE, 1)
    assert text_of([*heard, *rest]) == turn.output_text


async def test_a_stream_cut_fifty_times_is_the_uncut_one(clients: list[Client]) -> None:
    chance = random.Random(7)
    await clients[0].create("s1")
    request = turn_request("s1", "Tell me a long story.", "r1", on_disconnect=turn_pb2.ON_DISCONNECT_CONTINUE)
    uncut = asyncio.create_task(clients[0].events(request))
    await eventually(lambda: _is_open(clients[1]), message="the turn is open")
    heard: list[Event] = []
    for _ in range(CUTS):
        reader = chance.choice(clients)
        call = reader.stub.AttachTurn(_attach("sessions/s1/turns/1", heard[-1].delta.piece if heard else 0))
        count = chance.randint(0, 4)
        async for event in call:
            if event.HasField("done") or count == 0:
                break
            if event.HasField("delta"):
                heard.append(event)
                count -= 1
        call.cancel()
    last = await clients[2].attached("sessions/s1/turns/1", heard[-1].delta.piece)
    heard += [event for event in last if event.HasField("delta")]
    whole = await uncut
    assert heard == [event for event in whole if event.HasField("delta")]
    assert last[-1].done.turn == whole[-1].done.turn
    again = await clients[1].attached("sessions/s1/turns/1")
    assert [event for event in again if event.HasField("delta")] == heard, "a turn that is done is told in the same way"


async def test_a_gateway_that_goes_leaves_its_turn_to_whoever_reads_it(mesh: Mesh, clients: list[Client]) -> None:
    await clients[0].create("s1")
    call = clients[0].stub.RunTurn(turn_request("s1", "Who goes on?", "r1"))
    heard = [await anext(event async for event in call if event.HasField("delta"))]
    await mesh.remove("gateway-0")
    rest = await clients[1].attached("sessions/s1/turns/1", heard[0].delta.piece)
    turn = rest[-1].done.turn
    assert (turn.state, turn.attempt) == (turn_pb2.Turn.STATE_DONE, 2)
    assert text_of([*heard, *rest]) == turn.output_text
    assert turn.receipt.tokens.output_tokens == TOKENS


async def test_leaving_what_others_drive_changes_nothing_and_cancelling_ends_it_for_all(clients: list[Client]) -> None:
    one, two, three = clients
    await one.create("s1")
    running = asyncio.create_task(one.outcome(turn_request("s1", "Read me.", "r1")))
    await eventually(lambda: _is_open(two), message="the turn is open")
    call = two.stub.AttachTurn(_attach("sessions/s1/turns/1"))
    await anext(event async for event in call if event.HasField("delta"))
    call.cancel()
    reading = asyncio.create_task(drained(three.stub.AttachTurn(_attach("sessions/s1/turns/1"))))
    await anext(event async for event in two.stub.AttachTurn(_attach("sessions/s1/turns/1")) if event.HasField("delta"))
    assert (await two.get_turn("sessions/s1/turns/1")).state == turn_pb2.Turn.STATE_OPEN
    await two.stub.CancelTurn(session_service_pb2.CancelTurnRequest(name="sessions/s1/turns/1"))
    for ended in await asyncio.gather(running, reading, return_exceptions=True):
        assert "cancel" in str(ended).lower()


async def test_a_turn_that_is_not_there_cannot_be_read(clients: list[Client]) -> None:
    await clients[0].create("s1")
    for name in ("sessions/s1/turns/9", "sessions/s2/turns/1"):
        with pytest.raises(IsthmusError) as caught:
            await clients[0].attached(name)
        assert caught.value.reason == errors_pb2.ERROR_REASON_NOT_FOUND


def _attach(name: str, starting_after: int = 0) -> session_service_pb2.AttachTurnRequest:
    return session_service_pb2.AttachTurnRequest(name=name, starting_after=starting_after)


async def _is_open(client: Client) -> bool:
    request = session_service_pb2.ListTurnsRequest(parent="sessions/s1")
    return bool((await client.stub.ListTurns(request)).turns)
