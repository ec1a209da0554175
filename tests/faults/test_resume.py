"""A stream cut at random places, its driver and its replica killed: whoever reads it gets the answer whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from services.cli.client import Client, session_name
from tests.support.processes import ProcessMesh

PATIENCE_MS = 60_000
TURN_S_MAX = 90.0
CUTS = 50
TOKENS = 240
SETTINGS = {
    "ISTHMUS_INFERENCE__SCRIPTED_TOKENS_PER_S": "40",
    "ISTHMUS_INFERENCE__SCRIPTED_OUTPUT_TOKENS": str(TOKENS),
}
Event = session_service_pb2.RunTurnResponse


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessMesh]:
    home = Path(tmp_path_factory.mktemp("home"))
    flags = ("--shards", "2", "--replicas", "2", "--gateways", "3")
    mesh = ProcessMesh(home, *flags, environment=SETTINGS)
    mesh.start()
    yield mesh
    mesh.stop()


def request(session: str) -> session_service_pb2.RunTurnRequest:
    return session_service_pb2.RunTurnRequest(
        session=session_name(session),
        messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text="Tell me the whole story.")],
        on_disconnect=turn_pb2.ON_DISCONNECT_CONTINUE,
    )


def pieces(client: Client, turn: str, after: int, count: int) -> list[Event]:
    """At most so many events of a turn behind a piece; fewer where the turn ends."""
    heard: list[Event] = []
    call = client.stub.AttachTurn(
        session_service_pb2.AttachTurnRequest(name=turn, starting_after=after), timeout=TURN_S_MAX
    )
    for event in call:
        heard += [event] if event.HasField("delta") or event.HasField("done") else []
        if len(heard) >= count:
            break
    call.cancel()
    return heard


@pytest.mark.timeout(300)
def test_a_stream_survives_fifty_cuts_its_gateway_and_its_replica(mesh: ProcessMesh) -> None:
    chance = random.Random(11)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(target, PATIENCE_MS)) for target in mesh.gateways]
        for session in ("unbroken", "broken"):
            clients[1].ensure_session(session)
        whole = list(clients[1].stub.RunTurn(request("unbroken"), timeout=TURN_S_MAX))[-1].done.turn

        call = clients[0].stub.RunTurn(request("broken"), timeout=TURN_S_MAX)
        turn = next(event.accepted.turn for event in call if event.HasField("accepted"))
        heard: list[Event] = []
        for cut in range(CUTS):
            if cut == CUTS // 4:
                mesh.kill(whole.receipt.replica)
            if cut == CUTS // 2:
                mesh.kill("gateway-0")
            last = heard[-1].delta.piece if heard else 0
            heard += pieces(chance.choice(clients[1:]), turn, last, chance.randint(1, 4))
        while not heard[-1].HasField("done"):
            heard += pieces(chance.choice(clients[1:]), turn, heard[-1].delta.piece, 1_000)
        *deltas, done = heard
        assert [event.delta.piece for event in deltas] == list(range(1, len(deltas) + 1))
        assert "".join(event.delta.text for event in deltas) == done.done.turn.output_text == whole.output_text
        assert done.done.turn.attempt > 1, "another gateway has taken over"
        assert pieces(clients[2], turn, 0, 10_000)[:-1] == deltas
