"""The process that holds vLLM's model ends when the room's process was killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from inference.engines.vllm_args import OWNER_PID

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of a stranger's end")

# A room that starts a process as vLLM does: spawned, and with the worker's extension imported in it.
_ROOM = f"""
import multiprocessing, os, time

def hold(ready):
    import inference.engines.vllm_owner
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    os.environ[{OWNER_PID!r}] = str(os.getpid())
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=hold, args=(ready,))
    child.start()
    ready.wait()
    print(child.pid, flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The room, and the process that holds the model: its id, and a descriptor that tells of its end."""

    room: subprocess.Popen[str]
    pid: int
    watched: int

    def model_has_ended(self, wait_s: float) -> bool:
        return bool(select.select([self.watched], [], [], wait_s)[0])


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    path = tmp_path / "room.py"
    path.write_text(_ROOM, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as room:
        assert room.stdout is not None
        pid = int(room.stdout.readline())
        started = Mesh(room, pid, os.pidfd_open(pid))
        yield started
        room.kill()
    if not started.model_has_ended(0):
        os.kill(pid, signal.SIGKILL)
    os.close(started.watched)


def test_it_ends_when_the_room_was_killed(mesh: Mesh) -> None:
    assert not mesh.model_has_ended(0)
    mesh.room.kill()
    assert mesh.model_has_ended(30)


def test_a_terminals_interrupt_leaves_it_to_the_room(mesh: Mesh) -> None:
    os.kill(mesh.pid, signal.SIGINT)
    assert not mesh.model_has_ended(0.5)
    os.kill(mesh.pid, signal.SIGTERM)
    assert mesh.model_has_ended(30)
