"""Where the mesh is that a command speaks to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from services.cli.errors import EXIT_USAGE, CliError
from services.supervisor import state
from services.supervisor.home import Home
from services.supervisor.ports import Address
from services.supervisor.state import MeshState

ENV_HOME: Final = "ISTHMUS_HOME"
ENV_GRPC: Final = "ISTHMUS_GRPC"


def home_path(given: Path | None) -> Path:
    """The home: as given, as ISTHMUS_HOME says, or as configured (`mesh.home`)."""
    if given is not None:
        return given.expanduser().absolute()
    named = os.environ.get(ENV_HOME)
    if named:
        return Path(named).expanduser().absolute()
    from services.cli.settings import load

    return load(None).mesh.home.expanduser().absolute()


def running_mesh(given: Path | None) -> MeshState:
    """The state of the mesh that runs on the home. Raises CliError MESH_NOT_FOUND if none does."""
    path = home_path(given)
    found = state.read(Home(path).mesh)
    if found is None:
        raise CliError(
            "MESH_NOT_FOUND",
            f"no mesh runs on {path}: start one with `isthmus up`, or say where one is with --home DIR or "
            "--grpc HOST:PORT",
        )
    if not found.alive():
        raise CliError(
            "MESH_NOT_FOUND",
            f"the mesh on {path} (pid {found.pid}) is gone without a clean stop: start it again with `isthmus up`",
        )
    return found


def grpc_target(grpc: str | None, home: Path | None) -> str:
    """The gateway's `HOST:PORT`: --grpc, then --home, then ISTHMUS_GRPC, then the default home's mesh."""
    given = grpc or (None if home is not None else os.environ.get(ENV_GRPC))
    if not given:
        return running_mesh(home).grpc
    try:
        return str(Address.parse(given))
    except ValueError as error:
        raise CliError("USAGE", f"--grpc {error}", exit_code=EXIT_USAGE) from None
