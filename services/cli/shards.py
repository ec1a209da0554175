"""`shards`: the context store's processes of a running mesh, one more of them, or one less."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from services.cli.errors import CliError
from services.cli.output import console, print_json, table_of
from services.cli.settings import load
from services.cli.status import live_states
from services.cli.target import running_mesh
from services.config import MembershipSettings, Settings
from services.ring import Ring
from services.supervisor.control import AddShard, Answer, DrainShard, Request, ask
from services.supervisor.home import Home
from services.supervisor.plan import SHARD
from services.supervisor.state import MeshState, ProcessPhase, ProcessState

_READY: Final = ProcessPhase.READY.value
# A shard that is told to stop finishes its open turns first.
_STATES: Final = {ProcessPhase.STOPPING.value: "draining"}
# The mesh answers within its own bound, and then the answer has to arrive.
_ANSWER_MS_MAX: Final = 2_000


def list_shards(home: Path | None, *, as_json: bool) -> None:
    """Prints every shard with its state, address, pid and share of the sessions."""
    mesh = running_mesh(home)
    shards = [each for each in mesh.processes if each.room == SHARD]
    states = asyncio.run(live_states(shards))
    shares = ring_shares(shards, states, _settings(mesh).membership)
    rows = [_row(shard, state, shares.get(shard.name, 0.0)) for shard, state in zip(shards, states, strict=True)]
    if as_json:
        print_json({"shards": rows})
        return
    table = table_of("shard", "state", ">share", ">pid", ">restarts", "address")
    for row in rows:
        pid = str(row["pid"] or "")
        table.add_row(row["id"], row["state"], f"{row['share']:.1%}", pid, f"{row['restarts']:,}", row["endpoint"])
    console().print(table)


def add_shard(home: Path | None, *, as_json: bool) -> None:
    """Starts one more shard; returns when it is ready and sessions move to it. Raises CliError."""
    added = _changed(running_mesh(home), AddShard())
    if as_json:
        print_json({"shard": _row(added, added.phase.value)})
    else:
        console().print(f"{added.name} is ready on {added.endpoint}", markup=False)


def drain_shard(home: Path | None, name: str, *, as_json: bool) -> None:
    """Has a shard finish its open turns and go; returns when it is gone. Raises CliError."""
    drained = _changed(running_mesh(home), DrainShard(name))
    if as_json:
        print_json({"shard": _row(drained, "drained") | {"pid": None}})
    else:
        console().print(f"{drained.name} has drained and is gone", markup=False)


def ring_shares(
    shards: Sequence[ProcessState], states: Sequence[str], settings: MembershipSettings
) -> dict[str, float]:
    """What part of all sessions each shard that is ready owns."""
    ready = {shard.name: 1.0 for shard, state in zip(shards, states, strict=True) if state == _READY}
    ring = Ring(ready, settings.ring_virtual_nodes, settings.ring_slots_count, settings.ring_share_factor)
    return ring.shares()


def _row(shard: ProcessState, state: str, share: float | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": shard.name,
        "state": _STATES.get(state, state),
        "endpoint": shard.endpoint,
        "pid": shard.pid,
        "restarts": shard.restarts,
    }
    return row if share is None else row | {"share": share}


def ask_mesh(mesh: MeshState, request: Request) -> Answer:
    """What the mesh has done. Raises CliError where it does not answer, and for what it refuses."""
    try:
        timeout_ms = _settings(mesh).supervisor.control_ms_max + _ANSWER_MS_MAX
        answer = ask(Home(Path(mesh.home)), request, timeout_ms)
    except OSError as error:
        raise CliError("MESH_NOT_FOUND", f"the mesh on {mesh.home} does not answer: {error}") from None
    if answer.reason:
        raise CliError(answer.reason, answer.message)
    return answer


def _changed(mesh: MeshState, request: Request) -> ProcessState:
    process = ask_mesh(mesh, request).process
    assert process is not None, "a shard's change that is not refused answers with the shard"
    return process


def _settings(mesh: MeshState) -> Settings:
    """What the mesh was started with."""
    return load(Home(Path(mesh.home)).settings)
