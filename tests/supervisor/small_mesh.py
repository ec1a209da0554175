"""A mesh of one Valkey and two tiny rooms, as a program that tests may kill: `small_mesh HOME`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from services.config import load_settings
from services.supervisor import valkey
from services.supervisor.errors import SupervisorError
from services.supervisor.home import Home
from services.supervisor.local import held_home, run_mesh
from services.supervisor.plan import VALKEY, Plan, Probe, ProcessSpec, child_environment
from services.supervisor.ports import Address, free_ports
from services.supervisor.state import MeshState
from services.supervisor.supervisor import Supervisor

READY = "ready"
TINY_ROOM = (sys.executable, "-m", "tests.supervisor.tiny_room")


def small_plan(home: Home, extra: Sequence[str] = ()) -> Plan:
    """Valkey, then `tiny-0` and `tiny-1`; `extra` is added to the command of `tiny-1`."""
    settings = load_settings(mesh={"home": home.path})
    home.settings.write_text(settings.model_dump_json())
    environment = child_environment(os.environ, str(home.settings))
    addresses = [Address("127.0.0.1", port) for port in free_ports("127.0.0.1", 3, 20_000, 32_000, SystemRandom())]
    argv = valkey.prepare(home, addresses[0], settings.supervisor)
    store = ProcessSpec(VALKEY, VALKEY, argv, addresses[0], Probe.VALKEY, 0, 1, environment)
    tiny = [
        ProcessSpec(
            f"tiny-{index}",
            "tiny",
            (*TINY_ROOM, "--member", f"tiny-{index}", "--listen", str(address), *(extra if index else ())),
            address,
            Probe.GRPC,
            1,
            0,
            environment,
        )
        for index, address in enumerate(addresses[1:])
    ]
    return Plan((store, *tiny), grpc=addresses[1], http=addresses[2], valkey=addresses[0])


async def _serve(_: MeshState) -> None:
    print(READY, flush=True)
    await asyncio.Event().wait()


def main(path: Path) -> None:
    settings = load_settings(mesh={"home": path})
    try:
        with held_home(settings) as (home, mux):
            asyncio.run(run_mesh(Supervisor(small_plan(home), home, settings.supervisor, mux), _serve))
    except SupervisorError as error:
        sys.exit(f"{error.reason}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
