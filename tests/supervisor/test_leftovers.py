from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.supervisor import identity, leftovers
from services.supervisor.state import MeshState, ProcessPhase, ProcessState, read, write

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def recorded(pid: int, started: str, argv: list[str]) -> ProcessState:
    return ProcessState(
        name="sleeper",
        room="tiny",
        endpoint="127.0.0.1:1",
        phase=ProcessPhase.READY,
        argv=argv,
        pid=pid,
        started=started,
    )


def test_what_was_left_running_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    left = recorded(sleeper.pid, identity.started(sleeper.pid) or "", SLEEP)
    assert leftovers.end([left]) == [left]
    assert sleeper.wait(5) != 0


@pytest.mark.parametrize("wrong", ["started", "argv"])
def test_a_pid_that_stands_for_another_process_now_is_left_alone(sleeper: subprocess.Popen[bytes], wrong: str) -> None:
    started = identity.started(sleeper.pid) or ""
    other = recorded(
        sleeper.pid,
        "another boot:1" if wrong == "started" else started,
        [sys.executable, "-c", "another"] if wrong == "argv" else SLEEP,
    )
    assert leftovers.end([other]) == []
    assert sleeper.poll() is None


def test_a_process_that_is_gone_has_no_identity(sleeper: subprocess.Popen[bytes]) -> None:
    assert identity.started(sleeper.pid) == identity.started(sleeper.pid) != identity.started(os.getpid())
    sleeper.kill()
    sleeper.wait()
    assert identity.started(sleeper.pid) is None


def test_ps_tells_processes_apart_where_there_is_no_proc(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_HAS_PROC", False)
    assert identity.started(sleeper.pid)
    assert identity.runs(sleeper.pid, SLEEP)
    assert not identity.runs(sleeper.pid, ["another"])
    sleeper.kill()
    sleeper.wait()
    assert identity.started(sleeper.pid) is None


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    mesh = MeshState(
        home="/home",
        pid=os.getpid(),
        started=identity.started(os.getpid()) or "",
        grpc="127.0.0.1:1",
        http="http://127.0.0.1:2",
        valkey="redis://127.0.0.1:3/0",
        log="/home/log",
        phase=ProcessPhase.READY,
        processes=[recorded(1, "x", ["a"])],
    )
    write(tmp_path / "mesh.json", mesh)
    assert read(tmp_path / "mesh.json") == mesh
    assert mesh.alive()
    assert [each.name for each in tmp_path.iterdir()] == ["mesh.json"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mesh.json"
    if content is not None:
        path.write_bytes(content)
    assert read(path) is None
