"""`status`: what runs on a home, or whether a gateway elsewhere answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from services.cli.errors import EXIT_FAILED
from services.cli.output import console, print_json, table_of
from services.cli.target import ENV_GRPC, grpc_target, running_mesh
from services.supervisor import nodes, probe
from services.supervisor.plan import VALKEY, Probe
from services.supervisor.ports import Address
from services.supervisor.state import MeshState, ProcessPhase, ProcessState

PROBE_MS_MAX: Final = 2_000
_STYLES: Final = {"ready": "green", "starting": "yellow", "stopping": "yellow"}


def status(home: Path | None, grpc: str | None, *, as_json: bool) -> None:
    """Prints the state; exits with code 1 unless all of it is ready."""
    elsewhere = grpc or (home is None and os.environ.get(ENV_GRPC))
    ready = _remote(grpc_target(grpc, home), as_json) if elsewhere else _local(running_mesh(home), as_json)
    if not ready:
        raise typer.Exit(EXIT_FAILED)


def _remote(target: str, as_json: bool) -> bool:
    ready = asyncio.run(probe.is_ready(Probe.GRPC, Address.parse(target), PROBE_MS_MAX))
    state = "ready" if ready else "away"
    if as_json:
        print_json({"grpc": target, "state": state, "ready": ready})
    else:
        console().print(f"gateway {target}: {state}", markup=False)
    return ready


def _local(mesh: MeshState, as_json: bool) -> bool:
    states, roles = asyncio.run(_asked(mesh.processes))
    ready = all(each == ProcessPhase.READY.value for each in states)
    if as_json:
        print_json(_document(mesh, states, roles, ready))
        return ready
    out = console()
    table = table_of("process", "room", "state", "role", ">pid", ">restarts", "address")
    for process, state, role in zip(mesh.processes, states, roles, strict=True):
        shown = f"[{_STYLES.get(state, 'red')}]{state}[/]"
        pid, restarts = str(process.pid or ""), f"{process.restarts:,}"
        address = process.endpoint + (f" · HTTP {process.http}" if process.http else "")
        table.add_row(process.name, process.room, shown, role or "", pid, restarts, address)
    out.print(table)
    out.print(f"home {mesh.home} · supervisor pid {mesh.pid} · log {mesh.log}", style="dim", markup=False)
    out.print(f"HTTP {mesh.http}/v1 · gRPC {mesh.grpc} · {mesh.valkey}", style="dim", markup=False)
    return ready


async def live_states(processes: Sequence[ProcessState]) -> list[str]:
    """Where each process stands, in order."""
    return await asyncio.gather(*(_state(each) for each in processes))


async def _asked(processes: Sequence[ProcessState]) -> tuple[list[str], list[str | None]]:
    """States, and which nodes of Valkey are primaries or replicas now: a failover changes it."""
    return await asyncio.gather(live_states(processes), _roles(processes))


async def _roles(processes: Sequence[ProcessState]) -> list[str | None]:
    return await asyncio.gather(*(_role(each) for each in processes))


async def _role(process: ProcessState) -> str | None:
    if process.room != VALKEY:
        return None
    return await nodes.role(Address.parse(process.endpoint), PROBE_MS_MAX)


async def _state(process: ProcessState) -> str:
    """What the supervisor says, unless the process itself says otherwise."""
    if process.phase is not ProcessPhase.READY:
        return str(process.phase.value)
    kind = Probe.VALKEY if process.room == VALKEY else Probe.GRPC
    answers = await probe.is_ready(kind, Address.parse(process.endpoint), PROBE_MS_MAX)
    return str(ProcessPhase.READY.value) if answers else "away"


def _document(mesh: MeshState, states: list[str], roles: list[str | None], ready: bool) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(mesh)
    document["ready"] = ready
    for process, state, role in zip(document["processes"], states, roles, strict=True):
        process["state"] = state
        process |= {"role": role} if role else {}
        del process["phase"], process["argv"], process["started"]
    del document["started"]
    document["state"] = document.pop("phase")
    return document
