"""The flags and help of `cache`; what it does is in `cache.py`, imported on use."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import GrpcOption, HomeOption, Json, KeyOption, target_of

cache_app = typer.Typer(help="Cached answers: what they were good for, and which were wrong.", no_args_is_help=True)


@cache_app.command("report")
def report(home: HomeOption = None, grpc: GrpcOption = None, api_key: KeyOption = None, as_json: Json = False) -> None:
    """What is kept, what was asked of it, what it served, and what verification refused."""
    from services.cli.cache import report

    report(target_of(grpc, home, api_key), as_json=as_json)


@cache_app.command("wrong")
def wrong(
    turn: Annotated[str, typer.Argument(metavar="TURN", help="Such as sessions/s1/turns/3, or s1/3.")],
    home: HomeOption = None,
    grpc: GrpcOption = None,
    api_key: KeyOption = None,
    as_json: Json = False,
) -> None:
    """Tell that a turn was given a cached answer that does not answer it. The answer is gone, everywhere."""
    from services.cli.cache import wrong

    wrong(turn, target_of(grpc, home, api_key), as_json=as_json)
