"""A mesh of a Valkey and two tiny rooms, as a program that tests may kill: `small_mesh HOME single|cluster|URL`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

from services.config import Settings, load_settings
from services.supervisor import valkey
from services.supervisor.errors import SupervisorError
from services.supervisor.home import Home
from services.supervisor.local import held_home, run_mesh
from services.supervisor.plan import START_ROOMS, Allowance, Plan, Probe, ProcessSpec, RoomPlan, child_environment
from services.supervisor.ports import Address, free_ports
from services.supervisor.state import MeshState
from services.supervisor.supervisor import Supervisor

READY = "ready"
HOST = "127.0.0.1"
TINY_ROOM = (sys.executable, "-m", "tests.supervisor.tiny_room")


def small_plan(home: Home, settings: Settings, extra: Sequence[str] = (), allowance: Allowance | None = None) -> Plan:
    """Valkey, then `tiny-0` and `tiny-1`; `extra` is added to the command of `tiny-1`, the allowance is for both."""
    count = valkey.ports_count(valkey.mode_of(settings.supervisor.valkey))
    limits = settings.supervisor
    *valkey_ports, first, second = free_ports(HOST, count + 2, limits.port_min, limits.port_max, SystemRandom())
    environment = child_environment(os.environ, str(home.settings))
    store = valkey.prepare(home, settings, HOST, valkey_ports, environment)
    home.settings.write_text(settings.model_copy(update={"valkey": store.settings}).model_dump_json())
    addresses = [Address(HOST, first), Address(HOST, second)]
    tiny = [tiny_spec(home, index, address, extra if index else ()) for index, address in enumerate(addresses)]
    if allowance is not None:
        tiny = [replace(each, allowance=allowance) for each in tiny]
    rooms = RoomPlan(sys.executable, environment)
    return Plan((*store.processes, *tiny), grpc=addresses[0], http=addresses[1], valkey=store, rooms=rooms)


def tiny_spec(home: Home, number: int, address: Address, extra: Sequence[str] = ()) -> ProcessSpec:
    """A tiny room."""
    name = f"tiny-{number}"
    argv = (*TINY_ROOM, "--member", name, "--listen", str(address), *extra)
    environment = child_environment(os.environ, str(home.settings))
    return ProcessSpec(name, "tiny", argv, address, Probe.GRPC, START_ROOMS, 0, environment)


async def _serve(_: MeshState) -> None:
    print(READY, flush=True)
    await asyncio.Event().wait()


def main(path: Path, mode: str) -> None:
    settings = load_settings(mesh={"home": path}, supervisor={"valkey": mode})
    try:
        with held_home(settings) as (home, mux):
            asyncio.run(run_mesh(Supervisor(small_plan(home, settings), home, settings.supervisor, mux), _serve))
    except SupervisorError as error:
        sys.exit(f"{error.reason}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
