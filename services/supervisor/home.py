"""The folder that a local mesh lives in, and the lock that makes it one supervisor's."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from services.supervisor.errors import HomeInUse


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one mesh. `create` makes them; everything in them is this user's alone."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def mesh(self) -> Path:
        """State of the running mesh, for the other commands; there only while one runs."""
        return self.path / "mesh.json"

    @property
    def settings(self) -> Path:
        """The settings that the rooms were started with."""
        return self.path / "settings.json"

    @property
    def valkey(self) -> Path:
        """The data of a single Valkey: its append-only files and its configuration."""
        return self.path / "valkey"

    def valkey_node(self, number: int) -> Path:
        """The data of one node of a cluster."""
        return self.path / "valkey-cluster" / f"node-{number}"

    @property
    def door(self) -> Path:
        """The socket on which a running mesh is asked to change; there only while one runs."""
        return self.path / "control.sock"

    @property
    def api_key(self) -> Path:
        """The API key that the commands of this home show, where the mesh wants one."""
        return self.path / "api-key"

    @property
    def audit(self) -> Path:
        """What was done to API keys from here."""
        return self.path / "logs" / "audit.log"

    @property
    def log(self) -> Path:
        return self.path / "logs" / "isthmus.log"

    def create(self) -> None:
        """Makes the folders that are missing."""
        for folder in (self.path, self.log.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


class HomeLock:
    """Holds a home by flock, which the kernel lets go of with its process: a lock file left behind hinders nobody.

    The file itself stays, since removing it would let two processes lock two files of the same name.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file: int | None = None

    def acquire(self) -> None:
        """Takes the home. Raises HomeInUse, naming the holder, if another process has it."""
        file = os.open(self._home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 32, 0).strip()
            os.close(file)
            raise HomeInUse(self._home.path, int(holder) if holder.isdigit() else None) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Lets go of the home."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> HomeLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
