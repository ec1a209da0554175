"""The commands of `isthmus bench`: a mesh, a measurement, a table or a JSON document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from rich.progress import Progress

from services.cli.bench import (
    ingestion,
    jobs_run,
    jobs_table,
    load_run,
    load_table,
    million_model,
    million_run,
    million_table,
    peers,
    population,
    population_table,
    prefix_run,
    prefix_table,
    storage,
    storage_table,
    tables,
    turns,
)
from services.cli.bench.jobs_plan import JobsPlan
from services.cli.bench.load_plan import LoadPlan
from services.cli.bench.mesh import Sections, with_mesh
from services.cli.bench.million_plan import MillionPlan
from services.cli.bench.population_plan import SessionsPlan
from services.cli.bench.prefix_plan import PrefixPlan
from services.cli.bench.storage import StorePlan
from services.cli.bench.turns import TurnPlan
from services.cli.commands import explain
from services.cli.engines import VLLM, require_engine
from services.cli.errors import EXIT_FAILED, CliError
from services.cli.output import console, print_json
from services.cli.settings import load
from services.errors import from_rpc_error
from services.supervisor.errors import SupervisorError
from services.supervisor.state import MeshState
from services.valkey import redacted

Figures = dict[str, Any]

_STORE_SHARDS: Final = 2
_SEGMENT_TOKENS: Final = 1 << 30


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


def bench_store(plan: StorePlan, home: Path | None, valkey: str, *, with_peers: bool | None, as_json: bool) -> None:
    """The context store beside Valkey itself, and beside the peers that keep conversations in it."""
    sections: Sections = {
        "mesh": {"shards": _STORE_SHARDS},
        "supervisor": {"valkey": valkey},
        # No segment is ever full, so that the compressor leaves the machine to what is measured.
        "store": {"segment_tokens": _SEGMENT_TOKENS},
    }
    with _Bars() as bars:
        figures = _run(_on_own_mesh(home, lambda mesh: storage.measure(mesh, plan, bars.show), sections))
    figures = {"valkey": valkey if valkey in ("single", "cluster") else redacted(valkey), **figures}
    if with_peers is None or with_peers:
        figures["peers"] = _run(peers.run_store(plan.turn_bytes, plan.lengths, required=bool(with_peers)))
    if as_json:
        print_json(figures)
    else:
        storage_table.print_store(console(), figures)


def bench_sessions(plan: SessionsPlan, home: Path | None, *, as_json: bool) -> None:
    """Very many sessions of which a few are live. CliError once the figures are out, if a budget was passed."""
    with _Bars() as bars:
        figures = _run(_on_own_mesh(home, lambda mesh: population.measure(mesh, plan, bars.show), plan.sections()))
    figures = {"valkey": plan.valkey, **figures}
    if as_json:
        print_json(figures)
    else:
        population_table.print_sessions(console(), figures)
    if figures["problems"]:
        raise CliError("OUT_OF_BUDGET", "; ".join(figures["problems"]))


def bench_jobs(plan: JobsPlan, home: Path | None, *, as_json: bool) -> None:
    """Turns in the background under kills. CliError once the figures are out, if a job was lost or doubled."""
    with _Bars() as bars:
        figures = _run(_on_own_mesh(home, lambda mesh: jobs_run.measure(mesh, plan, bars.show), plan.sections()))
    if as_json:
        print_json(figures)
    else:
        jobs_table.print_jobs(console(), figures)
    if figures["problems"]:
        raise CliError("GOAL_MISSED", "; ".join(figures["problems"]))


def bench_prefix(plan: PrefixPlan, home: Path | None, *, as_json: bool) -> None:
    """What the prefix cache gives. CliError once the figures are out, if a goal was missed."""
    require_engine(plan.engine, plan.model)
    with _Bars() as bars:
        figures = _run(_on_own_mesh(home, lambda mesh: prefix_run.measure(mesh, plan, bars.show), plan.sections()))
    if as_json:
        print_json(figures)
    else:
        prefix_table.print_prefix(console(), figures)
    if figures["problems"]:
        raise CliError("GOAL_MISSED", "; ".join(figures["problems"]))


def bench_million(plan: MillionPlan, home: Path | None, *, as_json: bool) -> None:
    """A window of a million tokens on vLLM. CliError once the figures are out, if a goal was missed."""
    require_engine(VLLM)
    model = plan.model or million_model.make_model(load(None).inference.cache_dir)
    with _Bars() as bars:
        figures = _run(
            _on_own_mesh(home, lambda mesh: million_run.measure(mesh, plan, bars.show), plan.sections(model))
        )
    figures = {"engine": VLLM, "model": str(model), **figures}
    if as_json:
        print_json(figures)
    else:
        million_table.print_million(console(), figures)
    if figures["problems"]:
        raise CliError("GOAL_MISSED", "; ".join(figures["problems"]))


def bench_load(plan: LoadPlan, home: Path | None, *, with_peers: bool | None, as_json: bool) -> None:
    """Turns at a set rate. CliError once the figures are out, if a goal was missed."""
    if with_peers:
        peers.require()
    with _Bars() as bars:
        figures = _run(_on_own_mesh(home, lambda mesh: load_run.measure(mesh, plan, bars.show), plan.sections()))
    if with_peers:
        figures["peers"] = _run(peers.run_load(plan))
    if as_json:
        print_json(figures)
    else:
        load_table.print_load(console(), figures)
    if figures["problems"]:
        raise CliError("GOAL_MISSED", "; ".join(figures["problems"]))


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


async def _on_own_mesh(
    home: Path | None, measure: Callable[[MeshState], Awaitable[Figures]], sections: Sections | None = None
) -> Figures:
    figures: Figures = {}

    async def work(mesh: MeshState) -> None:
        figures.update(await measure(mesh))

    await with_mesh(home, work, sections)
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
