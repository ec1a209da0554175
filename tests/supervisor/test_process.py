"""One process: its output, its end, and what it started itself."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.supervisor import identity
from services.supervisor.logmux import LogMux, RotatingFile
from services.supervisor.plan import Probe, ProcessSpec
from services.supervisor.ports import Address
from services.supervisor.process import Process, describe_exit
from tests.support.eventually import eventually


@pytest.fixture
def mux(tmp_path: Path) -> Iterator[LogMux]:
    log = LogMux(RotatingFile(tmp_path / "log", 1 << 20, 0))
    yield log
    log.close()


def spawn(mux: LogMux, *argv: str) -> Process:
    spec = ProcessSpec("one", "tiny", argv, Address("127.0.0.1", 1), Probe.GRPC, 0, 0, {"WORD": "known"})
    return Process.spawn(spec, mux, 1_000)


async def test_output_and_exit_code(mux: LogMux) -> None:
    process = spawn(mux, "/bin/sh", "-c", "echo $WORD; echo wrong >&2; printf unfinished; exit 3")
    assert await process.exited == 3
    assert mux.tail("one") == ["known", "wrong", "unfinished"]
    process.send(signal.SIGTERM)


async def test_what_a_process_started_ends_with_it(mux: LogMux) -> None:
    process = spawn(mux, "/bin/sh", "-c", "sleep 600 & echo $!; exec sleep 600")
    grandchild = int((await eventually(lambda: mux.tail("one")))[0])
    assert identity.started(grandchild)

    process.send(signal.SIGKILL)

    assert describe_exit(await process.exited) == "was killed by SIGKILL"
    await eventually(lambda: identity.started(grandchild) is None)


async def test_a_program_that_does_not_exist_says_so(mux: LogMux) -> None:
    process = spawn(mux, "/nowhere/program")
    assert await process.exited == 1
    assert any("No such file" in line for line in mux.tail("one"))


async def test_a_process_has_the_identity_of_what_it_becomes(mux: LogMux) -> None:
    argv = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    process = spawn(mux, *argv)
    await eventually(lambda: mux.tail("one"))
    assert process.started == identity.started(process.pid)
    assert identity.runs(process.pid, argv)
    process.send(signal.SIGTERM)
    assert await process.wait(10)
