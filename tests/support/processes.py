"""A mesh of real processes, as `isthmus up` runs it, to be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from services.supervisor import identity, state
from services.supervisor.home import Home
from services.supervisor.state import MeshState, ProcessPhase, ProcessState
from tests.support.ports import free_port

SUPERVISOR = "supervisor"
EVERYTHING = "everything"

_START_S_MAX = 90.0
_STOP_S_MAX = 30.0
_POLL_S = 0.02

T = TypeVar("T")


def until(condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """The condition's first answer that is not None or False; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(_POLL_S)


class ProcessMesh:
    """One home and the `isthmus up` on it, with the scripted engine, on two addresses of its own.

    `wait_s_max` is how long it, or a process of it, may take to start.
    """

    def __init__(
        self,
        home: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        wait_s_max: float = _START_S_MAX,
    ) -> None:
        self._home = Home(home)
        self._wait_s_max = wait_s_max
        command = [str(Path(sys.executable).with_name("isthmus")), "up", "--home", str(home), "--engine", "scripted"]
        # The same addresses after every start, so that clients find the mesh again.
        self.grpc, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self._command = [*command, "--http", self.http, "--grpc", self.grpc, *flags]
        self._environment = {**os.environ, **(environment or {})}
        self._up: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> MeshState:
        """What mesh.json says now."""
        found = state.read(self._home.mesh)
        assert found is not None, "no mesh.json: the mesh is not up"
        return found

    @property
    def gateways(self) -> list[str]:
        """Where the gateways listen for gRPC, the one that keeps its address first."""
        return [each.endpoint for each in self.state.processes if each.room == "gateway"]

    def start(self) -> None:
        """Starts the mesh and waits until all of it is ready."""
        self._up = subprocess.Popen(self._command, env=self._environment, stdout=subprocess.DEVNULL)
        until(self._is_ready, self._wait_s_max, "all processes ready")

    def stop(self) -> int:
        """A clean stop, and the exit code; kills what does not end in time."""
        if self._up is None:
            return 0
        up, self._up = self._up, None
        up.send_signal(signal.SIGTERM)
        try:
            return up.wait(_STOP_S_MAX)
        finally:
            up.kill()
            up.wait()

    def process(self, name: str) -> ProcessState:
        """A process by its name in mesh.json, such as `gateway-0`, `valkey` or `valkey-3`."""
        return next(each for each in self.state.processes if each.name == name)

    def kill(self, victim: str) -> None:
        """SIGKILL to a process by name, to the supervisor, or to everything at once."""
        before = self.state
        if victim in (SUPERVISOR, EVERYTHING):
            doomed = [before.pid] if victim == SUPERVISOR else [*_pids(before), before.pid]
        else:
            doomed = [pid for each in before.processes if each.name == victim and (pid := each.pid)]
        assert doomed, f"{victim} is not running"
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)

    def recover(self, victim: str) -> None:
        """Brings the mesh back to ready: the supervisor does it by itself, unless it is among the dead."""
        if victim in (SUPERVISOR, EVERYTHING):
            assert self._up is not None
            self._up.wait(_STOP_S_MAX)
            self.start()
        else:
            until(self._is_ready, self._wait_s_max, f"{victim} ready again")

    def _is_ready(self) -> bool:
        ended = None if self._up is None else self._up.poll()
        assert ended is None, f"isthmus up ended with {ended}"
        now = state.read(self._home.mesh)
        if now is None or not now.alive() or now.phase is not ProcessPhase.READY:
            return False
        return all(each.phase is ProcessPhase.READY and each.alive() for each in now.processes)


def _pids(mesh: MeshState) -> list[int]:
    return [each.pid for each in mesh.processes if each.pid and identity.started(each.pid) == each.started]
