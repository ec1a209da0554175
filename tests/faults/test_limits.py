"""Limits over gateways that are processes: kept by all of them together, and given back by one that is killed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from isthmus.session.v1 import message_pb2, session_service_pb2
from isthmus.session.v1.session_service_pb2_grpc import SessionServiceStub

from services.cli.client import Client, translated
from services.errors import IsthmusError
from tests.support.processes import ProcessMesh, until

LIMIT, ASKED, SESSIONS = 6, 24, 48
ENVIRONMENT = {
    # Replies of half a minute, unless somebody stops them.
    "ISTHMUS_INFERENCE__SCRIPTED_TOKENS_PER_S": "20",
    "ISTHMUS_INFERENCE__SCRIPTED_OUTPUT_TOKENS": "600",
    "ISTHMUS_GATEWAY__LIMITS__LEASE_MS": "3000",
    "ISTHMUS_GATEWAY__LIMITS__USER__TURNS_CONCURRENT": str(LIMIT),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessMesh]:
    """One mesh for the module, with two gateways."""
    home = Path(tmp_path_factory.mktemp("home"))
    mesh = ProcessMesh(home, "--shards", "1", "--gateways", "2", environment=ENVIRONMENT)
    mesh.start()
    yield mesh
    mesh.stop()


class Turns:
    """Turns of one user at a gateway, each held open by its client."""

    def __init__(self, target: str, user: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._stub = SessionServiceStub(self._channel)
        self._user = user
        self._open: list[grpc.Call] = []

    def begin(self, session: str) -> bool:
        """Whether a turn was let in; if not, it was refused by its user's limit."""
        call = self._stub.RunTurn(
            session_service_pb2.RunTurnRequest(
                session=f"sessions/{session}",
                messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text="Take your time.")],
                user=self._user,
            )
        )
        try:
            with translated():
                next(call)
        except IsthmusError as refused:
            if refused.metadata != {"limit": "turns_concurrent", "of": "user"}:
                raise
            return False
        self._open.append(call)
        return True

    def close(self) -> None:
        """Ends them all."""
        for call in self._open:
            call.cancel()
        self._channel.close()


@pytest.fixture(scope="module")
def sessions(mesh: ProcessMesh) -> Iterator[str]:
    """Sessions, each for one turn."""
    with Client(mesh.grpc, 60_000) as client:
        for number in range(SESSIONS):
            client.ensure_session(f"s{number}")
    return iter([f"s{number}" for number in range(SESSIONS)])


@pytest.mark.timeout(180)
def test_many_at_two_gateways_are_let_in_up_to_one_limit(mesh: ProcessMesh, sessions: Iterator[str]) -> None:
    doors = [Turns(target, "ann") for target in mesh.gateways]
    asked = list(zip(doors * (ASKED // 2), sessions, strict=False))
    with ThreadPoolExecutor(ASKED) as threads:
        begun = list(threads.map(lambda each: each[0].begin(each[1]), asked))
    assert (len(begun), sum(begun)) == (ASKED, LIMIT)
    for each in doors:
        each.close()


@pytest.mark.timeout(180)
def test_a_gateway_that_is_killed_gives_its_places_back(mesh: ProcessMesh, sessions: Iterator[str]) -> None:
    doomed, other = Turns(mesh.gateways[1], "bob"), Turns(mesh.gateways[0], "bob")
    assert all(doomed.begin(next(sessions)) for _ in range(LIMIT))
    assert not other.begin(next(sessions))
    mesh.kill("gateway-1")
    for _ in range(LIMIT):
        session = next(sessions)
        until(lambda session=session: other.begin(session), 60, "a place is free")  # type: ignore[misc]
    assert not other.begin(next(sessions))
    for each in (doomed, other):
        each.close()
    mesh.recover("gateway-1")
