"""`isthmus chaos`, from its flags to its exit code."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import randbelow, token_hex
from typing import Final

import uvloop

from services.cli.chaos import report
from services.cli.chaos.ledger import Ledger
from services.cli.chaos.mesh import StruckMesh
from services.cli.chaos.plan import kinds
from services.cli.chaos.run import Outcome, Run
from services.cli.chaos.traffic import Traffic
from services.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CliError
from services.cli.output import console, print_json
from services.cli.settings import load
from services.config import Settings
from services.errors import IsthmusError, reason_name
from services.supervisor.errors import SupervisorError
from services.supervisor.local import held_home, plan_mesh, run_mesh
from services.supervisor.state import MeshState
from services.supervisor.supervisor import Supervisor

CLUSTER: Final = "cluster"
SINGLE: Final = "single"
_SEED_MAX: Final = 1 << 32
_FREE_PORT: Final = "127.0.0.1:0"
# Of each, so that one is left when another is hit.
_GATEWAYS_COUNT: Final = 2
_REPLICAS_COUNT: Final = 2
_SESSIONS_PER_CLIENT: Final = 3
# Slow enough for a fault to fall between two pieces of a reply, quick enough for many turns.
_PACE: Final = {"scripted_ttft_ms": 20, "scripted_tokens_per_s": 250, "scripted_output_tokens": 20}


@dataclass(frozen=True, slots=True)
class Wishes:
    """The flags. `valkey` is `cluster` or `single`; a `home` of None is one that is removed afterwards."""

    seconds: float
    seed: int | None
    shards: int
    clients: int
    valkey: str
    together: bool
    home: Path | None


def chaos(wishes: Wishes, *, as_json: bool) -> int:
    """Runs it, prints what was found, and returns the exit code. Raises CliError for a mesh that does not start."""
    if wishes.valkey not in (CLUSTER, SINGLE):
        raise CliError("USAGE", f"--valkey {wishes.valkey}: expected {CLUSTER} or {SINGLE}", exit_code=EXIT_USAGE)
    with _home(wishes.home) as home:
        outcome = _run(wishes, _settings(wishes, home), as_json=as_json)
    if as_json:
        print_json(report.document(outcome))
    else:
        report.print_outcome(console(), outcome)
    if not report.passed(outcome):
        return EXIT_FAILED
    return EXIT_INTERRUPTED if outcome.interrupted else 0


def _run(wishes: Wishes, settings: Settings, *, as_json: bool) -> Outcome:
    # A home that is used again has the sessions of earlier runs.
    mark = token_hex(4)
    sessions = tuple(f"chaos-{mark}-{number}" for number in range(wishes.clients * _SESSIONS_PER_CLIENT))
    outcome = Outcome(randbelow(_SEED_MAX) if wishes.seed is None else wishes.seed, Ledger(sessions))
    tell = partial(report.print_fault, console(stderr=as_json))

    with held_home(settings) as (home, mux):
        supervisor = Supervisor(plan_mesh(settings, home), home, settings.supervisor, mux)

        async def serve(_: MeshState) -> None:
            mesh = StruckMesh(supervisor)
            traffic = Traffic(mesh.gateways, wishes.clients, outcome.ledger, outcome.seed)
            by_kind = kinds(cluster=wishes.valkey == CLUSTER, together=wishes.together)
            run = Run(mesh, traffic, outcome, by_kind, tell)
            await run.go(wishes.seconds, supervisor.plan.valkey.settings.url, settings.mesh.tenant_default)

        try:
            uvloop.run(run_mesh(supervisor, serve))
        except SupervisorError as error:
            raise CliError(error.reason, str(error)) from None
        except IsthmusError as error:
            raise CliError(reason_name(error.reason), error.message) from None
    return outcome


def _settings(wishes: Wishes, home: Path) -> Settings:
    return load(
        None,
        mesh={"home": home, "shards": wishes.shards, "replicas": _REPLICAS_COUNT, "gateways": _GATEWAYS_COUNT},
        inference={"engine": "scripted", **_PACE},
        # Its clients have no key, whatever the environment says of the mesh that it is for.
        gateway={"access": {"mode": "open"}},
        supervisor={"grpc": _FREE_PORT, "http": _FREE_PORT, "valkey": wishes.valkey},
    )


@contextlib.contextmanager
def _home(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="isthmus-chaos-") as folder:
        yield Path(folder)
