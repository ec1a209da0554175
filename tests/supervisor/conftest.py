"""A small mesh under a supervisor of its own process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.supervisor import identity, state
from services.supervisor.home import Home
from services.supervisor.state import MeshState, ProcessState
from tests.supervisor.small_mesh import READY

STOP_S_MAX = 30


class SmallMesh:
    """Starts and ends supervisors on one home."""

    def __init__(self, path: Path, valkey: str = "single") -> None:
        self.home = Home(path)
        self._valkey = valkey
        self.supervisor: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once the mesh is ready."""
        self.supervisor = self.spawn()
        assert self.supervisor.stdout is not None
        assert self.supervisor.stdout.readline().strip() == READY, self.home.log.read_text()

    def spawn(self) -> subprocess.Popen[str]:
        """A supervisor on the home, whatever becomes of it."""
        command = [sys.executable, "-m", "tests.supervisor.small_mesh", str(self.home.path), self._valkey]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, number: signal.Signals) -> int:
        """Sends the supervisor a signal and returns its exit code."""
        assert self.supervisor is not None
        supervisor, self.supervisor = self.supervisor, None
        supervisor.send_signal(number)
        supervisor.communicate(timeout=STOP_S_MAX)
        return supervisor.returncode

    @property
    def state(self) -> MeshState:
        found = state.read(self.home.mesh)
        assert found is not None
        return found

    def process(self, name: str) -> ProcessState:
        return next(each for each in self.state.processes if each.name == name)


def gone(processes: list[ProcessState]) -> bool:
    """Whether none of the recorded processes lives."""
    return not any(each.pid and identity.started(each.pid) == each.started for each in processes)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[SmallMesh]:
    small = SmallMesh(tmp_path / "home")
    yield small
    if small.supervisor is not None:
        small.end(signal.SIGTERM)
