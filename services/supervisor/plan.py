"""Which processes a local mesh has, with which ids and ports, and in which order they come and go. Pure."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.supervisor.ports import Address

CONFIG_VARIABLE: Final = "ISTHMUS_CONFIG"
_OWN_PREFIX: Final = "ISTHMUS_"
VALKEY: Final = "valkey"


class Probe(enum.Enum):
    """How a process is asked whether it is ready."""

    VALKEY = "valkey"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process, as data: a supervisor needs to know nothing else about it.

    Those of a lower `start_stage` are ready before the next are started; those of a lower `stop_stage` are gone before
    the next are asked to stop.
    """

    name: str
    room: str
    argv: tuple[str, ...]
    address: Address
    probe: Probe
    start_stage: int
    stop_stage: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """All processes of a mesh and the addresses that its users see."""

    processes: tuple[ProcessSpec, ...]
    grpc: Address
    http: Address
    valkey: Address

    @property
    def valkey_url(self) -> str:
        return valkey_url(self.valkey)


# A turn in progress needs its gateway, then the replica, then the shard, and everything needs Valkey.
_STOP_STAGE: Final = {"gateway": 0, "inference": 1, "compressor": 1, "context_store": 2, VALKEY: 3}


def rooms(shards: int, replicas: int) -> list[str]:
    """The rooms to start besides the gateway, the one that takes longest to warm first."""
    return ["inference"] * replicas + ["context_store"] * shards + ["compressor"]


def valkey_url(address: Address) -> str:
    """Where clients of Valkey connect."""
    return f"redis://{address}/0"


def mesh_plan(
    python: str,
    valkey_argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    grpc: Address,
    http: Address,
    valkey: Address,
    inner: Mapping[str, Sequence[Address]],
) -> Plan:
    """The plan of a whole mesh. `inner` gives each room but the gateway its addresses, one a process."""
    store = ProcessSpec(VALKEY, VALKEY, tuple(valkey_argv), valkey, Probe.VALKEY, 0, _STOP_STAGE[VALKEY], environment)
    specs = [
        _room(python, room, index, address, environment)
        for room, addresses in inner.items()
        for index, address in enumerate(addresses)
    ]
    gateway = _room(python, "gateway", 0, grpc, environment, "--http", str(http))
    return Plan((store, *specs, gateway), grpc, http, valkey)


def inner_addresses(room_names: Sequence[str], host: str, ports: Sequence[int]) -> dict[str, list[Address]]:
    """Hands the ports out, one a process."""
    supply: Iterator[int] = iter(ports)
    grouped = itertools.groupby(room_names)
    return {room: [Address(host, next(supply)) for _ in group] for room, group in grouped}


def child_environment(inherited: Mapping[str, str], settings_path: str) -> dict[str, str]:
    """What a room sees: its settings come from the file alone, so that all processes have the same ones."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN_PREFIX)}
    return kept | {CONFIG_VARIABLE: settings_path, "PYTHONUNBUFFERED": "1"}


def _room(
    python: str, room: str, index: int, address: Address, environment: Mapping[str, str], *extra: str
) -> ProcessSpec:
    name = f"{room.replace('_', '-')}-{index}"
    # -P: a folder of the same name in the user's working directory must not stand for the room.
    argv = (python, "-P", "-m", room, "--member", name, "--listen", str(address), *extra)
    return ProcessSpec(name, room, argv, address, Probe.GRPC, 1, _STOP_STAGE[room], environment)
