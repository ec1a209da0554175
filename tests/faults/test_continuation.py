"""SIGKILL to a replica in the middle of its answer: another one goes on, and the client gets the answer whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2, message_pb2, session_service_pb2, turn_pb2

from services.cli.client import Client, session_name
from tests.support.log_reader import read_log
from tests.support.processes import ProcessMesh

PATIENCE_MS = 60_000
TURN_S_MAX = 90.0
TOKENS = 40
# Slow enough for a kill to fall into the reply.
SETTINGS = {
    "ISTHMUS_INFERENCE__SCRIPTED_TTFT_MS": "50",
    "ISTHMUS_INFERENCE__SCRIPTED_TOKENS_PER_S": "30",
    "ISTHMUS_INFERENCE__SCRIPTED_OUTPUT_TOKENS": str(TOKENS),
}
# With this the model has no doubts: greedy, it says the same whether it has said or read what came before.
QUESTION = "Repeat after me: " + 8 * "one two three four five six seven eight nine ten "


@pytest.fixture(scope="module", params=["scripted", "local"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessMesh]:
    """Two replicas with an engine that makes text up, then two with a real model."""
    home = Path(tmp_path_factory.mktemp("home"))
    mesh = ProcessMesh(home, "--shards", "1", "--replicas", "2", "--engine", request.param, environment=SETTINGS)
    mesh.start()
    yield mesh
    mesh.stop()


class Talk:
    """Greedy turns on one session, over one connection, and none of them sent twice."""

    def __init__(self, client: Client, mesh: ProcessMesh, session: str) -> None:
        self._client, self._mesh, self.session = client, mesh, session
        self.texts: list[str] = []
        client.ensure_session(session)

    def turn(self, victim: str = "") -> turn_pb2.Turn:
        """A turn; in the middle of its reply the victim is killed."""
        request = session_service_pb2.RunTurnRequest(
            session=session_name(self.session),
            messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text=QUESTION)],
            params=message_pb2.SamplingParams(temperature=0.0, max_output_tokens=TOKENS),
        )
        heard = ""
        for event in self._client.stub.RunTurn(request, timeout=TURN_S_MAX):
            heard += event.delta.text
            if victim and event.HasField("delta"):
                self._mesh.kill(victim)
                victim = ""
        turn = event.done.turn
        assert heard == turn.output_text
        self.texts += [QUESTION, heard]
        return turn


@pytest.mark.timeout(300)
def test_an_answer_survives_its_replica(mesh: ProcessMesh) -> None:
    with Client(mesh.grpc, PATIENCE_MS) as client:
        unbroken, broken = Talk(client, mesh, "unbroken"), Talk(client, mesh, "broken")
        for _ in range(2):
            whole = unbroken.turn()
        victim = broken.turn().receipt.replica
        turn = broken.turn(victim)
        assert turn.output_text == whole.output_text
        assert (turn.attempt, turn.finish_reason) == (1, whole.finish_reason)
        [continuation] = turn.receipt.continuations
        assert continuation.replica == turn.receipt.replica != victim
        assert continuation.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert 0 < continuation.emitted_tokens < turn.receipt.tokens.output_tokens
        assert turn.receipt.tokens.output_tokens == whole.receipt.tokens.output_tokens
        mesh.recover(victim)
        after = broken.turn()
    assert after.receipt.tokens.window_tokens > turn.receipt.tokens.window_tokens
    log = read_log(mesh.state.valkey, "local", "broken")
    assert [each.text for each in log] == broken.texts
    assert [each.kind for each in log] == [
        fragment_pb2.FRAGMENT_KIND_MESSAGE,
        fragment_pb2.FRAGMENT_KIND_REPLY,
    ] * 3
