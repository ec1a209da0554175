"""The flags and help of `jobs`; what it does is in `jobs.py`, imported on use."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import GrpcOption, HomeOption, Json, KeyOption, target_of

jobs_app = typer.Typer(
    help="Turns in the background: list, show, cancel and replay them; alone it lists.", invoke_without_command=True
)
_Names = Annotated[
    list[str], typer.Argument(metavar="JOB…", help="SESSION/TURN, resp_SESSION_TURN, or an operation's name.")
]
_Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most this many.")]


@jobs_app.callback()
def jobs(
    context: typer.Context,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_jobs(home=home, grpc=grpc, api_key=api_key, as_json=as_json)


@jobs_app.command("list")
def list_jobs(
    ended: Annotated[bool, typer.Option("--ended", help="Those that were done or cancelled lately, instead.")] = False,
    limit: _Limit = 100,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """List jobs that wait or run, newest first."""
    from services.cli.jobs import list_jobs

    list_jobs("ENDED" if ended else "LIVE", limit, target_of(grpc, home, api_key), as_json=as_json)


@jobs_app.command("dead")
def list_dead(
    limit: _Limit = 100,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """List the dead letters, newest first, with the reason."""
    from services.cli.jobs import list_jobs

    list_jobs("DEAD", limit, target_of(grpc, home, api_key), as_json=as_json)


@jobs_app.command("show")
def show_job(
    name: Annotated[str, typer.Argument(metavar="JOB", help="As `jobs list` names it.")],
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Show a job, with its reply once it is done."""
    from services.cli.jobs import show_job

    show_job(name, target_of(grpc, home, api_key), as_json=as_json)


@jobs_app.command("cancel")
def cancel_jobs(
    names: _Names,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Cancel jobs, whether they wait or run."""
    from services.cli.jobs import cancel_jobs

    cancel_jobs(names, target_of(grpc, home, api_key), as_json=as_json)


@jobs_app.command("replay")
def replay_jobs(
    names: _Names,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Run dead letters anew, each as a new turn of its session."""
    from services.cli.jobs import replay_jobs

    replay_jobs(names, target_of(grpc, home, api_key), as_json=as_json)
