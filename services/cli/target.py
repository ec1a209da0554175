"""Where the mesh is that a command speaks to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.access import MalformedKey, parse
from services.cli.errors import EXIT_USAGE, CliError
from services.cli.key_file import read_key
from services.supervisor import state
from services.supervisor.home import Home
from services.supervisor.ports import Address
from services.supervisor.state import MeshState

ENV_HOME: Final = "ISTHMUS_HOME"
ENV_GRPC: Final = "ISTHMUS_GRPC"
ENV_API_KEY: Final = "ISTHMUS_API_KEY"
# A JSON Web Token's three parts in base64url; what is in them is the gateway's to judge.
_TOKEN: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway's `HOST:PORT` and the API key to show there, empty for none."""

    grpc: str
    api_key: str = field(default="", repr=False)


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


def target(grpc: str | None, home: Path | None, api_key: str | None) -> Target:
    """The gateway as `grpc_target` finds it, and the key: --api-key, then ISTHMUS_API_KEY, then the home's file.

    The file's key goes to the home's own mesh alone: an address that is given may be a stranger's.
    """
    address = grpc_target(grpc, home)
    if api_key is not None:
        return Target(address, _checked(api_key, "--api-key"))
    if named := os.environ.get(ENV_API_KEY):
        return Target(address, _checked(named, ENV_API_KEY))
    if grpc or (home is None and os.environ.get(ENV_GRPC)):
        return Target(address)
    own = Home(home_path(home))
    kept = read_key(own)
    return Target(address, _checked(kept, str(own.api_key)) if kept else "")


def _checked(api_key: str, where: str) -> str:
    """What is no key, and has not the form of an issuer's token either, could not even be sent."""
    if _TOKEN.fullmatch(api_key):
        return api_key
    try:
        return parse(api_key).text
    except MalformedKey as error:
        raise CliError("USAGE", f"{where}: the API key cannot be one: {error}", exit_code=EXIT_USAGE) from None
