"""`gateways`: the gateway's processes of a running mesh, started anew one after the other."""

from __future__ import annotations

from pathlib import Path

from services.cli.output import console, print_json
from services.cli.shards import ask_mesh
from services.cli.target import running_mesh
from services.supervisor.control import RenewGateways


def restart_gateways(home: Path | None, *, as_json: bool) -> None:
    """Returns when all have been started anew. Raises CliError."""
    renewed = ask_mesh(running_mesh(home), RenewGateways()).processes
    if as_json:
        rows = [{"id": each.name, "endpoint": each.endpoint, "http": each.http, "pid": each.pid} for each in renewed]
        print_json({"gateways": rows})
        return
    for each in renewed:
        console().print(f"{each.name} is ready again, pid {each.pid}", markup=False)
