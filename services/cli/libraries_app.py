"""The flags and help of `libraries`; what it does is in `libraries.py`, imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import GrpcOption, HomeOption, Json, KeyOption

if TYPE_CHECKING:
    from services.cli.target import Target

libraries_app = typer.Typer(
    help="Libraries of documents: create, list, show, search and delete them, add files; alone it lists.",
    invoke_without_command=True,
)
_Library = Annotated[str, typer.Argument(metavar="LIBRARY", help="The library's id.")]
_Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most this many.")]


@libraries_app.callback()
def libraries(
    context: typer.Context,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_libraries(home=home, grpc=grpc, api_key=api_key, as_json=as_json)


@libraries_app.command("create")
def create_library(
    library: Annotated[str, typer.Argument(metavar="[LIBRARY]", help="Its id; without one the mesh chooses.")] = "",
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="A name for people.")] = "",
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.")] = "",
    ttl: Annotated[
        str | None,
        typer.Option("--ttl", metavar="DURATION", help="How long it outlives its last use: 90s, 12h, 30d [for ever]."),
    ] = None,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Make a library."""
    from services.cli.libraries import Wish, create_library

    create_library(Wish(library, name, description, ttl), _target(grpc, home, api_key), as_json=as_json)


@libraries_app.command("list")
def list_libraries(
    limit: _Limit = 100,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """List libraries, by id."""
    from services.cli.libraries import list_libraries

    list_libraries(limit, _target(grpc, home, api_key), as_json=as_json)


@libraries_app.command("show")
def show_library(
    library: _Library,
    limit: _Limit = 100,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Show a library and its newest documents."""
    from services.cli.libraries import show_library

    show_library(library, limit, _target(grpc, home, api_key), as_json=as_json)


@libraries_app.command("add")
def add_files(
    library: Annotated[str, typer.Argument(metavar="LIBRARY", help="The library; made if it does not exist.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="UTF-8 texts of up to 1 GiB; - is stdin.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until meaning finds them, too, and not words alone.")] = False,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Stream texts into a library. The same command again goes on where it was cut off."""
    from services.cli.libraries import add_files

    add_files(library, files, _target(grpc, home, api_key), wait=wait, as_json=as_json)


@libraries_app.command("search")
def search_library(
    library: _Library,
    query: Annotated[list[str], typer.Argument(metavar="QUERY…", help="What is looked for, in words.")],
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=50, help="At most so many passages.")] = 5,
    words_only: Annotated[bool, typer.Option("--words-only", help="By words alone, not by meaning.")] = False,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Show the passages that suit a query best."""
    from services.cli.libraries import search_library

    target = _target(grpc, home, api_key)
    search_library(library, " ".join(query), limit, target, words_only=words_only, as_json=as_json)


@libraries_app.command("delete")
def delete_libraries(
    libraries: Annotated[list[str], typer.Argument(metavar="LIBRARY…", help="Which ones.")],
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Erase libraries with all their documents, and show what was erased where."""
    from services.cli.libraries import delete_libraries

    delete_libraries(libraries, _target(grpc, home, api_key), as_json=as_json)


def _target(grpc: str | None, home: Path | None, api_key: str | None) -> Target:
    from services.cli.target import target

    return target(grpc, home, api_key)
