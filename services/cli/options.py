"""The flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.cli.target import Target

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The mesh's folder; ISTHMUS_HOME, else ~/.isthmus."),
]
GrpcOption = Annotated[
    str | None,
    typer.Option("--grpc", metavar="HOST:PORT", help="A gateway's gRPC address; ISTHMUS_GRPC, else the home's mesh."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="The API key to show; ISTHMUS_API_KEY, else the one in the home."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML or JSON; ISTHMUS_CONFIG.")
]
SessionOption = Annotated[
    str | None, typer.Option("--session", "-s", metavar="ID", help="The session; made if it does not exist.")
]


def target_of(grpc: str | None, home: Path | None, api_key: str | None) -> Target:
    """Where the flags say that the mesh is. Raises CliError."""
    # On use, as everything behind the flags is.
    from services.cli.target import target

    return target(grpc, home, api_key)
