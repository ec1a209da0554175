"""The whole mesh on vLLM as a user starts it: real processes, two replicas, the model that comes along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from services.cli.bench.memory import with_children
from services.cli.client import Client, session_name
from services.config import load_settings
from services.cores import cores_count
from services.ring import Ring
from services.router import session_key
from services.supervisor import identity
from tests.support.ports import free_port
from tests.support.processes import ProcessMesh, until
from tests.vllm.asking import write_adapter

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("cores_are_shared")]

PATIENCE_MS: Final = 60_000
TURN_S_MAX: Final = 120.0
START_S_MAX: Final = 300.0
BLOCK_TOKENS: Final = 32
TENANT: Final = "local"
MODEL: Final = "smollm2-135m-instruct"
ADAPTER: Final = "other"
REPLICAS: Final = ("inference-0", "inference-1")
FRANCE: Final = "What is the capital of France?"
# With this the model has no doubts: greedy, it says the same whether it has said or read what came before.
REPEAT: Final = "Repeat after me: " + 8 * "one two three four five six seven eight nine ten "
LONG: Final = " ".join(f"Item {index} costs {index * 7} coins." for index in range(60))


def test_one_command_shows_a_turn_and_ends(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("isthmus")), "up", "--engine", "vllm", "--once", "--json"]
    done = subprocess.run([*command, "--home", str(tmp_path)], capture_output=True, text=True, timeout=START_S_MAX)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["turn"]["state"] == "done"
    assert shown["text"] == shown["turn"]["output_text"] != ""
    assert shown["turn"]["receipt"]["model"] == MODEL


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessMesh]:
    folder = tmp_path_factory.mktemp("mesh")
    config = {
        "inference": {"engine": "vllm", "context_tokens_max": 4_096, "requests_running_max": 4},
        "vllm": {
            # The same sums, however a prompt is cut into steps.
            "engine_args": {"dtype": "float32"},
            "adapters": {ADAPTER: str(write_adapter(folder / "adapter", 0.2))},
            "resident_tokens_min": 256,
        },
    }
    (folder / "isthmus.json").write_text(json.dumps(config), "utf-8")
    flags = ("--config", str(folder / "isthmus.json"), "--engine", "vllm", "--shards", "1", "--replicas", "2")
    mesh = ProcessMesh(folder / "home", *flags, wait_s_max=START_S_MAX)
    mesh.start()
    yield mesh
    mesh.stop()


@pytest.fixture
def client(mesh: ProcessMesh) -> Iterator[Client]:
    with Client(mesh.grpc, PATIENCE_MS) as connected:
        yield connected


def at(replica: str, name: str, tenant: str = TENANT) -> str:
    """A session's id whose turns belong to the replica."""
    settings = load_settings().membership
    ring = Ring(
        dict.fromkeys(REPLICAS, settings.weight),
        settings.ring_virtual_nodes,
        settings.ring_slots_count,
        settings.ring_share_factor,
    )
    names = (f"{name}-{number}" for number in count())
    return next(each for each in names if ring.owner(session_key(tenant, each)) == replica)


def stream(
    client: Client, session: str, text: str, tokens: int, model: str = ""
) -> Iterator[session_service_pb2.RunTurnResponse]:
    """A greedy turn's events, of one call that is not repeated."""
    client.ensure_session(session)
    request = session_service_pb2.RunTurnRequest(
        session=session_name(session),
        messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text=text)],
        params=message_pb2.SamplingParams(temperature=0.0, max_output_tokens=tokens),
        model=model,
    )
    return iter(client.stub.RunTurn(request, timeout=TURN_S_MAX))


def turn(client: Client, session: str, text: str, tokens: int = 8, model: str = "") -> turn_pb2.Turn:
    """A greedy turn."""
    *_, last = stream(client, session, text, tokens, model)
    return last.done.turn


def turn_at(replica: str, client: Client, name: str, tenant: str = TENANT) -> turn_pb2.Turn:
    """A turn on LONG that the replica has served: while its heartbeat is late, others do that."""
    turns = (turn(client, at(replica, f"{name}-{number}", tenant), LONG) for number in range(9))
    return next(each for each in turns if each.receipt.replica == replica)


@contextmanager
def gateway_of(tenant: str, mesh: ProcessMesh, folder: Path) -> Iterator[Client]:
    """One more gateway of the mesh, whose callers are another tenant."""
    settings = json.loads((Path(mesh.state.home) / "settings.json").read_text("utf-8"))
    settings["mesh"]["tenant_default"] = tenant
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    endpoint = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-P", "-m", "gateway", "--member", f"gateway-{tenant}", "--listen", endpoint]
    environment = {**os.environ, "ISTHMUS_CONFIG": str(folder / "settings.json")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        with Client(endpoint, PATIENCE_MS) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def test_replicas_share_the_cores(mesh: ProcessMesh) -> None:
    threads = max(1, cores_count() // len(REPLICAS))
    for replica in REPLICAS:
        _, *engine = with_children(mesh.process(replica).pid or 0)
        assert engine
        for pid in engine:
            assert f"OMP_NUM_THREADS={threads}\0" in Path(f"/proc/{pid}/environ").read_text()


def test_two_tenants_with_one_prompt_share_no_token(mesh: ProcessMesh, client: Client, tmp_path: Path) -> None:
    replica = REPLICAS[0]
    with gateway_of("stranger", mesh, tmp_path) as stranger:
        turns = [
            turn_at(replica, client, "first"),
            turn_at(replica, stranger, "first", "stranger"),
            turn_at(replica, client, "second"),
            turn_at(replica, stranger, "second", "stranger"),
        ]
    receipts = [each.receipt for each in turns]
    (window,) = {each.tokens.window_tokens for each in receipts}
    whole_blocks = (window - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert whole_blocks > 10 * BLOCK_TOKENS
    assert [each.tokens.cached_tokens for each in receipts] == [0, 0, whole_blocks, whole_blocks]
    assert len({each.output_text for each in turns}) == 1


def test_a_long_session_stays_open_in_the_engine(client: Client) -> None:
    session = at(REPLICAS[1], "long")
    turns = [turn(client, session, text) for text in (LONG, "And then?", "Go on.", FRANCE)]
    tokens = [each.receipt.tokens for each in turns]
    # The second turn opens it, those after it are sent what is new.
    assert [each.resident for each in tokens] == [False, False, True, True]
    for before, after in pairwise(tokens[1:]):
        held = before.window_tokens + before.output_tokens
        # Of a reply the last token was never computed, and in the window its end is another one.
        assert held - 2 <= after.cached_tokens < after.window_tokens


def test_an_adapter_is_a_model_to_ask_for(mesh: ProcessMesh, client: Client) -> None:
    plain = turn(client, "plain", FRANCE, 12)
    adapted = turn(client, "adapted", FRANCE, 12, ADAPTER)
    assert "Paris" in plain.output_text
    assert adapted.receipt.tokens.output_tokens > 0
    assert adapted.output_text != plain.output_text
    assert (plain.receipt.model, adapted.receipt.model) == (MODEL, ADAPTER)
    assert {each["id"] for each in http(mesh, "models")["data"]} >= {MODEL, ADAPTER}
    body = {"input": FRANCE, "temperature": 0, "max_output_tokens": 12}
    for name, asked in ((MODEL, plain), (ADAPTER, adapted)):
        answer = http(mesh, "responses", {**body, "model": name})
        assert answer["model"] == name
        assert answer["output"][0]["content"][0]["text"] == asked.output_text
    for replica in REPLICAS:
        with grpc.insecure_channel(mesh.process(replica).endpoint) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            told = stub.GetModel(contract.GetModelRequest())
        assert (told.name, list(told.adapters)) == (MODEL, [ADAPTER])


def test_an_answer_survives_the_replica_that_generates_it(mesh: ProcessMesh, client: Client) -> None:
    victim, other = REPLICAS
    tokens = 120
    whole = turn(client, at(other, "unbroken"), REPEAT, tokens)
    processes = {pid: identity.started(pid) for pid in with_children(mesh.process(victim).pid or 0)}
    assert len(processes) > 1
    heard = deltas = 0
    text = ""
    for event in stream(client, at(victim, "broken"), REPEAT, tokens):
        text += event.delta.text
        deltas += event.HasField("delta")
        if deltas == 20 and not heard:
            heard = len(text)
            mesh.kill(victim)
    broken = event.done.turn
    assert text == broken.output_text == whole.output_text
    assert (broken.attempt, broken.finish_reason) == (1, whole.finish_reason)
    [continuation] = broken.receipt.continuations
    assert continuation.replica == broken.receipt.replica == other
    assert continuation.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert 0 < continuation.emitted_tokens < whole.receipt.tokens.output_tokens == broken.receipt.tokens.output_tokens
    assert 0 < heard < len(text)
    # The process with the model has ended with its room.
    until(lambda: not still(processes), PATIENCE_MS / 1_000, "no orphan")
    mesh.recover(victim)
    assert mesh.process(victim).restarts == 1
    served = (turn(client, at(victim, f"after-{number}"), FRANCE, 1).receipt.replica for number in count())
    until(lambda: next(served) == victim, PATIENCE_MS / 1_000, "the replica serves again")


def test_a_stop_leaves_nothing_and_kills_nobody(mesh: ProcessMesh) -> None:
    up = mesh.state
    processes = {pid: identity.started(pid) for pid in with_children(up.pid)}
    assert len(processes) > len(up.processes) + len(REPLICAS), "the engines' own among them"
    assert mesh.stop() == 0
    assert not still(processes)
    assert "did not stop in time" not in Path(up.log).read_text("utf-8")


def still(processes: dict[int, str | None]) -> list[int]:
    """Those of the processes that are there."""
    return [pid for pid, started in processes.items() if identity.started(pid) == started]


def http(mesh: ProcessMesh, path: str, body: Any = None) -> Any:
    """What the HTTP edge answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{mesh.http}/v1/{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=TURN_S_MAX) as answer:
        return json.load(answer)
