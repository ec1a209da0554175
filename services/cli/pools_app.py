"""The flags and help of `pools`; what it does is in `pools.py`, imported on use."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import GrpcOption, HomeOption, Json, KeyOption, target_of

pools_app = typer.Typer(
    help="List, show, drain and resume the pools behind a gateway; alone it lists.", invoke_without_command=True
)
_Pool = Annotated[str, typer.Argument(metavar="POOL")]


@pools_app.callback()
def pools(
    context: typer.Context,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_pools(home=home, grpc=grpc, api_key=api_key, as_json=as_json)


@pools_app.command("list")
def list_pools(
    home: HomeOption = None, grpc: GrpcOption = None, api_key: KeyOption = None, as_json: Json = False
) -> None:
    """List the pools with their state, load and times, as one gateway sees them."""
    from services.cli.pools import list_pools

    list_pools(target_of(grpc, home, api_key), as_json=as_json)


@pools_app.command("show")
def show_pool(
    pool: _Pool, home: HomeOption = None, grpc: GrpcOption = None, api_key: KeyOption = None, as_json: Json = False
) -> None:
    """Show a pool and its replicas."""
    from services.cli.pools import show_pool

    show_pool(pool, target_of(grpc, home, api_key), as_json=as_json)


@pools_app.command("drain")
def drain_pool(
    pool: _Pool, home: HomeOption = None, grpc: GrpcOption = None, api_key: KeyOption = None, as_json: Json = False
) -> None:
    """Have no gateway begin a reply in the pool; those under way go on to their end."""
    from services.cli.pools import drain_pool

    drain_pool(pool, target_of(grpc, home, api_key), as_json=as_json)


@pools_app.command("resume")
def resume_pool(
    pool: _Pool, home: HomeOption = None, grpc: GrpcOption = None, api_key: KeyOption = None, as_json: Json = False
) -> None:
    """Take a drained pool back into service."""
    from services.cli.pools import resume_pool

    resume_pool(pool, target_of(grpc, home, api_key), as_json=as_json)
