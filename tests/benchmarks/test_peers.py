"""The harness for the peers, against the stub alone: a real process, real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import servers
from benchmarks.conversation import Client, Conversation
from services.cli.bench import memory
from services.cli.bench.text import delta, text


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[servers.Server]:
    with servers.stub(tmp_path) as server:
        yield server


def test_a_turn_resends_the_whole_history(stub: servers.Server) -> None:
    conversation = Conversation(text(20_000, seed=1))
    with Client(stub.port, stub.port) as client:
        first = client.turn(conversation, delta(1))
        second = client.turn(conversation, delta(2))
    assert first.model_bytes > 80_000
    assert first.model_bytes < second.model_bytes < first.model_bytes + 500
    assert second.client_bytes > second.model_bytes
    assert first.overhead_ms > 0


def test_the_history_is_a_conversation_with_nothing_lost() -> None:
    history = text(5_000, seed=1)
    messages = json.loads(Conversation(history).say("And now?"))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "user"]
    assert "".join(message["content"] for message in messages[1:-1]) == history


def test_memory_is_counted_over_a_process_and_its_children(stub: servers.Server) -> None:
    pids = memory.with_children(stub.pid)
    assert pids[0] == stub.pid
    assert 1_000_000 < memory.resident_bytes(pids) <= memory.peak_bytes(pids)


def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="required: --port"),
        servers.process("stub", servers.STUB, 1, "/", tmp_path),
    ):
        pass
