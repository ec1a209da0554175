"""SIGKILL to any process, or to all, in the middle of a turn: what was acknowledged is there once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from isthmus.session.v1 import fragment_pb2, turn_pb2

from services.cli.client import Client
from tests.support.log_reader import read_log
from tests.support.processes import EVERYTHING, SUPERVISOR, ProcessMesh

# Slow enough for a kill to fall between two deltas, quick enough for many turns.
PACE = {
    "ISTHMUS_INFERENCE__SCRIPTED_TTFT_MS": "50",
    "ISTHMUS_INFERENCE__SCRIPTED_TOKENS_PER_S": "60",
    "ISTHMUS_INFERENCE__SCRIPTED_OUTPUT_TOKENS": "30",
    # A turn whose driver died is taken over after this.
    "ISTHMUS_GATEWAY__LEASE_MS": "1500",
}
PATIENCE_MS = 60_000
TURNS_BEFORE, TURNS_AFTER = 2, 2


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessMesh]:
    """One mesh for the module, with two shards: each test leaves it ready."""
    mesh = ProcessMesh(Path(tmp_path_factory.mktemp("home")), "--shards", "2", environment=PACE)
    mesh.start()
    yield mesh
    mesh.stop()


class Conversation:
    """A client that keeps what was acknowledged to it, and tries again under the same request_id until it is."""

    def __init__(self, mesh: ProcessMesh, session: str) -> None:
        self._mesh = mesh
        self.session = session
        self.acknowledged: list[tuple[str, str]] = []

    def begin(self) -> None:
        with Client(self._mesh.grpc, PATIENCE_MS) as client:
            client.ensure_session(self.session)

    def turn(self) -> None:
        self._record(self._run(None))

    def turn_through(self, victim: str) -> None:
        """One turn, in the middle of which the victim dies and comes back."""
        self._record(self._run(victim))

    def _run(self, victim: str | None) -> turn_pb2.Turn:
        number = len(self.acknowledged)
        with Client(self._mesh.grpc, PATIENCE_MS) as client:
            for event in client.run_turn(self.session, self._text(number), request_id=f"{self.session}-{number}"):
                if victim is not None and event.HasField("delta"):
                    self._mesh.kill(victim)
                    self._mesh.recover(victim)
                    victim = None
        assert event.HasField("done"), event
        return event.done.turn

    def _text(self, number: int) -> str:
        return f"message {number} of {self.session}"

    def _record(self, turn: turn_pb2.Turn) -> None:
        self.acknowledged.append((self._text(len(self.acknowledged)), turn.output_text))

    def check(self) -> None:
        """The log, read without the store, is exactly what was acknowledged."""
        log = read_log(self._mesh.state.valkey, "local", self.session)
        said = [each.text for each in log if each.kind == fragment_pb2.FRAGMENT_KIND_MESSAGE]
        replied = [each.text for each in log if each.kind == fragment_pb2.FRAGMENT_KIND_REPLY]
        assert said == [text for text, _ in self.acknowledged]
        assert replied == [reply for _, reply in self.acknowledged]
        assert [each.kind for each in log] == [1, 2] * len(self.acknowledged)


VICTIMS = ["gateway-0", "context-store-0", "context-store-1", "inference-0", "compressor-0", "valkey"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", [*VICTIMS, SUPERVISOR, EVERYTHING])
def test_an_acknowledged_turn_survives_the_death_of(mesh: ProcessMesh, victim: str) -> None:
    conversation = Conversation(mesh, f"killed-{victim}")
    conversation.begin()
    for _ in range(TURNS_BEFORE):
        conversation.turn()
    conversation.turn_through(victim)
    for _ in range(TURNS_AFTER):
        conversation.turn()
    assert len(conversation.acknowledged) == TURNS_BEFORE + 1 + TURNS_AFTER
    conversation.check()
