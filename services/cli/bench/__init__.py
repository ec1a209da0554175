"""`isthmus bench`: the flags; what is measured and how is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="bench",
    help="Measure what the mesh costs, with all processes real and the scripted engine for a model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="Where the benchmark's own mesh lives; a temporary folder if not given."
    ),
]


@app.command()
def turn(
    histories: Annotated[
        str, typer.Option(metavar="N,N,…", help="Tokens behind the sessions.")
    ] = "2000,200000,1000000,2000000",
    turns: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Turns measured on each session.")] = 200,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the texts.")] = 1,
    home: HomeOption = None,
    grpc: Annotated[
        str | None, typer.Option("--grpc", metavar="HOST:PORT", help="Measure the mesh that runs there instead.")
    ] = None,
    peers: Annotated[
        bool | None,
        typer.Option(help="Also measure LiteLLM and vllm-router; by default if benchmarks/setup.sh was run."),
    ] = None,
    peer_turns: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Turns measured on each peer.")] = 30,
    as_json: Json = False,
) -> None:
    """What one more turn costs, gateway, store and hand-over together, by the length of the history behind it."""
    from services.cli.bench.commands import Targets, bench_turn
    from services.cli.bench.turns import TurnPlan

    plan = TurnPlan(_tokens(histories), turns, seed)
    bench_turn(plan, Targets(home, grpc, peers, peer_turns), as_json=as_json)


@app.command()
def ingest(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A UTF-8 text of up to 1 GiB.")
    ],
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """How fast a text goes into a session, and what memory each process takes for it."""
    from services.cli.bench.commands import bench_ingest

    bench_ingest(file, home, as_json=as_json)


def _tokens(histories: str) -> list[int]:
    parts = [part.strip() for part in histories.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{histories!r}: expected numbers of tokens such as 2000,200000", param_hint="--histories"
        )
    if len(set(parts)) != len(parts):
        raise typer.BadParameter(f"{histories!r}: expected each length once", param_hint="--histories")
    return [int(part) for part in parts]
