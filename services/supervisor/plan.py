"""Which processes a local mesh has, with which ids and ports, and in which order they come and go. Pure."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from services.config import ValkeySettings
from services.supervisor.ports import Address

# Where gRPC is served, and where HTTP.
Pair: TypeAlias = tuple[Address, Address]

CONFIG_VARIABLE: Final = "ISTHMUS_CONFIG"
_OWN_PREFIX: Final = "ISTHMUS_"
# What Python and gRPC read before any setting is there, unless the user has set it; the image has the same. gRPC's
# client does its reads and writes on the thread that polls: its default wakes a thread of its own for each, which took
# a fifth more processor time a call, and twice the context switches.
# docket's store of keys and values would have each of its functions wrapped in checks of types, as it is imported.
RUNTIME: Final = {
    "PYTHONUNBUFFERED": "1",
    "GRPC_EXPERIMENTS": "-event_engine_client",
    "PY_KEY_VALUE_DISABLE_BEARTYPE": "true",
}
GATEWAY: Final = "gateway"
SHARD: Final = "context_store"
REPLICA: Final = "inference"
VALKEY: Final = "valkey"

# What the rooms need is there before them.
START_VALKEY: Final = 0
START_ROOMS: Final = 1
# A turn in progress needs its gateway, then the replica, then the shard, and everything needs Valkey.
_STOP_STAGE: Final = {GATEWAY: 0, REPLICA: 1, "compressor": 1, SHARD: 2, VALKEY: 3}


class Probe(enum.Enum):
    """How a process is asked whether it is ready."""

    VALKEY = "valkey"
    GRPC = "grpc"


class ValkeyMode(enum.Enum):
    """Which Valkey a mesh runs on."""

    SINGLE = "single"
    CLUSTER = "cluster"
    # One that others run, given by its URL.
    OWN = "own"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a process may take beyond `supervisor.start_ms_max` and `supervisor.drain_ms_max`, as `section` says."""

    start_ms: int = 0
    stop_ms: int = 0
    section: str = ""


_NOTHING_MORE: Final = Allowance()


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process, as data: a supervisor needs to know nothing else about it.

    Those of a lower `start_stage` are ready before the next are started; those of a lower `stop_stage` are gone before
    the next are asked to stop. `http` is a second address: a gateway's edge, a replica's metrics.
    """

    name: str
    room: str
    argv: tuple[str, ...]
    address: Address
    probe: Probe
    start_stage: int
    stop_stage: int
    environment: Mapping[str, str] = field(default_factory=dict)
    http: Address | None = None
    allowance: Allowance = _NOTHING_MORE


@dataclass(frozen=True, slots=True)
class ValkeyPlan:
    """The Valkey of a mesh: how the rooms connect to it, its processes in the order of their numbers, and the ports on
    which a cluster's talk among themselves.
    """

    mode: ValkeyMode
    settings: ValkeySettings
    processes: tuple[ProcessSpec, ...] = ()
    bus_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RoomPlan:
    """How a process of any room is started, what those of some rooms are allowed, and by number what replicas have of
    their own in their environment.
    """

    python: str
    environment: Mapping[str, str]
    allowances: Mapping[str, Allowance] = field(default_factory=dict)
    replicas: Sequence[Mapping[str, str]] = ()

    def spec(
        self, room: str, number: int | str, address: Address, http: Address | None = None, shared: Pair | None = None
    ) -> ProcessSpec:
        """The process of that number; `http` is for a gateway and for a replica.

        `shared` are a gateway's further addresses for gRPC and HTTP, which others of its kind serve, too.
        """
        name = process_name(room, number)
        # -P: a folder of the same name in the user's working directory must not stand for the room.
        argv = (self.python, "-P", "-m", room, "--member", name, "--listen", str(address))
        edge: tuple[str, ...] = ("--http", str(http)) if http is not None else ()
        if shared is not None:
            edge += ("--shared-listen", str(shared[0]), "--shared-http", str(shared[1]))
        own = (
            self.replicas[number] if room == REPLICA and isinstance(number, int) and number < len(self.replicas) else {}
        )
        return ProcessSpec(
            name,
            room,
            argv + edge,
            address,
            Probe.GRPC,
            START_ROOMS,
            _STOP_STAGE[room],
            {**self.environment, **own},
            http=http,
            allowance=self.allowances.get(room, _NOTHING_MORE),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All processes of a mesh, the addresses that its users see, and how to make one more."""

    processes: tuple[ProcessSpec, ...]
    grpc: Address
    http: Address
    valkey: ValkeyPlan
    rooms: RoomPlan


def process_name(room: str, number: int | str) -> str:
    """What a process is called in the mesh: `context-store-0`."""
    return f"{room.replace('_', '-')}-{number}"


def valkey_spec(
    name: str, argv: Sequence[str], address: Address, environment: Mapping[str, str] | None = None
) -> ProcessSpec:
    """A process of Valkey."""
    return ProcessSpec(
        name, VALKEY, tuple(argv), address, Probe.VALKEY, START_VALKEY, _STOP_STAGE[VALKEY], environment or {}
    )


def shard_spec(plan: Plan, number: int, address: Address) -> ProcessSpec:
    """One more shard of a mesh that runs."""
    return plan.rooms.spec(SHARD, number, address)


def rooms(shards: int, replicas: int) -> list[str]:
    """The rooms to start besides the gateways, the one that takes longest to warm first."""
    return [REPLICA] * replicas + [SHARD] * shards + ["compressor"]


def mesh_plan(
    room_plan: RoomPlan,
    valkey: ValkeyPlan,
    *,
    gateways: Sequence[Pair],
    inner: Mapping[str, Sequence[Address]],
    metrics: Sequence[Address],
    behind: Sequence[Sequence[Pair]] = (),
) -> Plan:
    """The plan of a whole mesh. `gateways` are pairs of gRPC and HTTP addresses, the first pair the one that users see;
    `inner` gives each other room its addresses, one a process, and `metrics` each replica another one. `behind` are the
    own addresses of the processes that serve each gateway's together; where there are none, one process serves them.
    """
    specs = [
        room_plan.spec(room, number, address, metrics[number] if room == REPLICA else None)
        for room, addresses in inner.items()
        for number, address in enumerate(addresses)
    ]
    doors = list(_doors(room_plan, gateways, behind))
    grpc, http = gateways[0]
    return Plan((*valkey.processes, *specs, *doors), grpc, http, valkey, room_plan)


def _doors(rooms: RoomPlan, gateways: Sequence[Pair], behind: Sequence[Sequence[Pair]]) -> Iterator[ProcessSpec]:
    for number, (grpc, http) in enumerate(gateways):
        if not behind:
            yield rooms.spec(GATEWAY, number, grpc, http)
            continue
        for place, own in enumerate(behind[number]):
            yield rooms.spec(GATEWAY, f"{number}-{place}", *own, shared=(grpc, http))


def inner_addresses(room_names: Sequence[str], host: str, ports: Sequence[int]) -> dict[str, list[Address]]:
    """Hands the ports out, one a process."""
    supply: Iterator[int] = iter(ports)
    grouped = itertools.groupby(room_names)
    return {room: [Address(host, next(supply)) for _ in group] for room, group in grouped}


def child_environment(inherited: Mapping[str, str], settings_path: str) -> dict[str, str]:
    """What a room sees: its settings come from the file alone, so that all processes have the same ones."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_OWN_PREFIX)}
    return {**RUNTIME, **kept, CONFIG_VARIABLE: settings_path}
