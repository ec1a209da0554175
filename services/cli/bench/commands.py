"""The commands of `isthmus bench`: a mesh, a measurement, a table or a JSON document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from rich.progress import Progress

from services.cli.bench import ingestion, peers, tables, turns
from services.cli.bench.mesh import with_mesh
from services.cli.bench.turns import TurnPlan
from services.cli.commands import explain
from services.cli.errors import EXIT_FAILED, CliError
from services.cli.output import console, print_json
from services.errors import from_rpc_error
from services.supervisor.errors import SupervisorError
from services.supervisor.state import MeshState

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Targets:
    """What to measure: a mesh of the benchmark's own, or the one at `grpc`, and the peers (None: if they are there)."""

    home: Path | None
    grpc: str | None
    peers: bool | None
    peer_turns: int


def bench_turn(plan: TurnPlan, targets: Targets, *, as_json: bool) -> None:
    """One more turn, by the history behind it."""
    with_peers = peers.available() if targets.peers is None else targets.peers
    if with_peers:
        peers.require()
    with _Bars() as bars:
        if targets.grpc is None:
            figures = _run(_on_own_mesh(targets.home, lambda mesh: turns.measure(mesh.grpc, plan, bars.show)))
        else:
            figures = _run(turns.measure(targets.grpc, plan, bars.show))
    if with_peers:
        figures["peers"] = _run(peers.run(plan.histories, targets.peer_turns, plan.seed))
    if as_json:
        print_json(figures)
    else:
        tables.print_turn(console(), figures)


def bench_ingest(file: Path, home: Path | None, *, as_json: bool) -> None:
    """A file into a session."""
    figures = _run(_on_own_mesh(home, lambda mesh: ingestion.measure(mesh, file)))
    if as_json:
        print_json(figures)
    else:
        tables.print_ingest(console(), figures)


class _Bars:
    """Progress on stderr, one bar a stage."""

    def __init__(self) -> None:
        self._progress = Progress(console=console(stderr=True))
        self._stack = ExitStack()
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._stack.enter_context(self._progress)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, stage: str, done: int, total: int) -> None:
        """How far a stage has come."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)


async def _on_own_mesh(home: Path | None, measure: Callable[[MeshState], Awaitable[Figures]]) -> Figures:
    figures: Figures = {}

    async def work(mesh: MeshState) -> None:
        figures.update(await measure(mesh))

    await with_mesh(home, work)
    if not figures:
        raise CliError("INTERRUPTED", "the benchmark was stopped before it had figures", exit_code=EXIT_FAILED)
    return figures


def _run(work: Coroutine[Any, Any, Figures]) -> Figures:
    try:
        return uvloop.run(work)
    except grpc.aio.AioRpcError as error:
        raise explain(from_rpc_error(error), "the benchmark's target") from None
    except SupervisorError as error:
        raise CliError(error.reason, str(error)) from None
