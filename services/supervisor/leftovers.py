"""What a killed supervisor left running is ended before anything is started on its data."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Final

from services.supervisor import identity
from services.supervisor.errors import SupervisorError
from services.supervisor.state import ProcessState

TERM_MS_MAX: Final = 3_000
KILL_MS_MAX: Final = 3_000
_POLL_S: Final = 0.02


def end(processes: Sequence[ProcessState]) -> list[ProcessState]:
    """Ends those that still run, first by SIGTERM, then by SIGKILL; returns them.

    Only a process whose pid, start time and command line are all the recorded ones is touched. Raises SupervisorError
    naming one that cannot be ended.
    """
    found = [each for each in processes if _is_recorded(each)]
    for number, wait_ms in ((signal.SIGTERM, TERM_MS_MAX), (signal.SIGKILL, KILL_MS_MAX)):
        alive = [each for each in found if each.alive()]
        for each in alive:
            _signal(each, number)
        _wait(alive, wait_ms)
    for each in found:
        if each.alive():
            raise SupervisorError(f"{each.name} (pid {each.pid}), left by an earlier mesh, cannot be ended; kill it")
    return found


def _is_recorded(process: ProcessState) -> bool:
    return process.alive() and process.pid is not None and identity.runs(process.pid, process.argv)


def _signal(process: ProcessState, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, number)


def _wait(processes: Sequence[ProcessState], wait_ms: int) -> None:
    deadline = time.monotonic() + wait_ms / 1_000
    while any(each.alive() for each in processes) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
