"""The flags and help of `audits`; what it does is in `audits.py`, imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import GrpcOption, HomeOption, Json, KeyOption

if TYPE_CHECKING:
    from services.cli.target import Target

audits_app = typer.Typer(
    help="What the critic has found in replies: each audit, and the hallucination rate; alone it lists.",
    invoke_without_command=True,
)
_Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="So many at most, newest first.")]
_LIMIT = 100


@audits_app.callback()
def audits(
    context: typer.Context,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_audits(home=home, grpc=grpc, api_key=api_key, as_json=as_json)


@audits_app.command("list")
def list_audits(
    limit: _Limit = _LIMIT,
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Audited turns, newest first: how many claims, and what of them stands in what the reply was made from."""
    from services.cli.audits import list_audits

    list_audits(limit, _target(grpc, home, api_key), as_json=as_json)


@audits_app.command("rate")
def rate(
    since: Annotated[str, typer.Option("--since", metavar="DAY", help="The first day, as 2026-11-01.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="DAY", help="The last one.")] = "",
    model: Annotated[str, typer.Option("--model", help="Of this model alone.")] = "",
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """The hallucination rate by day and model: claims that are contradicted or unsupported, of all."""
    from services.cli.audits import rate

    rate(since, until, model, _target(grpc, home, api_key), as_json=as_json)


def _target(grpc: str | None, home: Path | None, api_key: str | None) -> Target:
    from services.cli.target import target

    return target(grpc, home, api_key)
