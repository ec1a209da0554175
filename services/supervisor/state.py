"""mesh.json: what runs on a home, written by its supervisor and read by the other commands."""

from __future__ import annotations

import contextlib
import enum
import os
from pathlib import Path

import msgspec

from services.supervisor import identity


class ProcessPhase(enum.Enum):
    """Where a process stands."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    # Killed, and kept down until it is released.
    HELD = "held"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One process: `started` is its identity (see `identity.started`), empty without a pid; `http` is a gateway's."""

    name: str
    room: str
    endpoint: str
    phase: ProcessPhase
    argv: list[str]
    http: str = ""
    pid: int | None = None
    started: str = ""
    restarts: int = 0

    def alive(self) -> bool:
        """Whether the very process that was recorded still runs."""
        return self.pid is not None and identity.started(self.pid) == self.started


class MeshState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole mesh. Endpoints are `HOST:PORT`, `http` and `valkey` are URLs, the latter without its password."""

    home: str
    pid: int
    started: str
    grpc: str
    http: str
    valkey: str
    log: str
    phase: ProcessPhase
    processes: list[ProcessState]

    def alive(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return identity.started(self.pid) == self.started


def write(path: Path, state: MeshState) -> None:
    """Replaces the file in one step, so that a reader sees the old state or the new one."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
    os.replace(draft, path)  # noqa: PTH105 - the same call, and its atomicity is the point


def read(path: Path) -> MeshState | None:
    """The state, or None where no mesh has left one that can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=MeshState)
    return None
