"""One mesh for all tests of the command line, started by the command line itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND_S_MAX = 90
# Where several processes test at once, each has ports of its own.
PORTS = ("ISTHMUS_SUPERVISOR__PORT_MIN", "ISTHMUS_SUPERVISOR__PORT_MAX")


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document; stderr must be silent."""
        assert self.code == 0, self.err
        assert self.err == ""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error on stderr, which must be one JSON document, with nothing on stdout."""
        assert self.code != 0
        assert self.out == ""
        return json.loads(self.err)["error"]


class Isthmus:
    """The command, with the variables that say where the mesh is."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_") or name in PORTS}
        self._environment = {**kept, "COLUMNS": "200", **variables}

    def __call__(self, *arguments: str, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        process = self.spawn(*arguments)
        out, err = process.communicate(data, timeout=COMMAND_S_MAX)
        return Result(process.returncode, out.decode(), err.decode())

    def spawn(self, *arguments: str, terminal: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """The command, running, on pipes or on a terminal."""
        command = [sys.executable, "-m", "services.cli", *arguments]
        return subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=self._environment)


def read_document(process: subprocess.Popen[bytes]) -> Any:
    """The one JSON document that a command which goes on running has printed by now or prints next."""
    assert process.stdout is not None
    text = b""
    while line := process.stdout.readline():
        text += line
        if line == b"}\n":
            return json.loads(text)
    assert process.stderr is not None
    raise AssertionError(f"no document: {text.decode()} {process.stderr.read().decode()}")


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> tuple[bytes, bytes]:
    """Sends a signal and returns what the command printed from then on."""
    process.send_signal(number)
    return process.communicate(timeout=COMMAND_S_MAX)


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The mesh, as `isthmus up --json` describes it."""
    home = tmp_path_factory.mktemp("cli") / "home"
    # Slow enough that a reply can be interrupted.
    process = Isthmus({"ISTHMUS_INFERENCE__SCRIPTED_TOKENS_PER_S": "200"}).spawn(
        *("up", "--json", "--engine", "scripted", "--home", str(home)),
        *("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"),
    )
    yield read_document(process)
    end(process)


@pytest.fixture
def isthmus(up: Any) -> Isthmus:
    """The command, with the mesh as its home."""
    return Isthmus({"ISTHMUS_HOME": up["home"]})


@pytest.fixture
def alone(tmp_path: Path) -> Isthmus:
    """The command where no mesh runs."""
    return Isthmus({"ISTHMUS_HOME": str(tmp_path / "nobody")})
