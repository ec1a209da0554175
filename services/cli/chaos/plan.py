"""Which faults a run injects, in which order, and which processes each of them hits. Pure: one seed, one plan."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

# The longest a mesh that is whole is left alone between two faults.
_BREATHER_MS_MAX: Final = 1_000


class Act(enum.Enum):
    """What is done to a process."""

    # SIGKILL; its supervisor starts it again.
    KILL = "kill"
    # SIGKILL, and kept down until its replica has taken over.
    HOLD = "hold"
    ADD = "add"
    DRAIN = "drain"


class Part(enum.Enum):
    """Which kind of process it is done to."""

    PRIMARY = "primary"
    REPLICA = "replica"
    # The replica of the primary that the same fault has hit.
    TWIN = "twin"
    SHARD = "shard"
    GATEWAY = "gateway"
    INFERENCE = "inference"


@dataclass(frozen=True, slots=True)
class Strike:
    """One process of a fault."""

    act: Act
    part: Part


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at once, the seed that chooses among equals, and how long the mesh is left alone before it."""

    kind: str
    strikes: tuple[Strike, ...]
    seed: int
    breather_ms: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary and its replica, by process name; a Valkey without a cluster has none."""

    primary: str
    replica: str | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """The processes that may be hit now, by part."""

    pairs: tuple[Pair, ...]
    others: Mapping[Part, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Target:
    """A strike with its process. What is to be added has no name yet."""

    act: Act
    name: str


def _kills(*parts: Part) -> tuple[Strike, ...]:
    return tuple(Strike(Act.KILL, part) for part in parts)


_ADD: Final = "add-shard"
_DRAIN: Final = "drain-shard"
# On any Valkey.
_ANYWHERE: Final = {
    "primary": _kills(Part.PRIMARY),
    "shard": _kills(Part.SHARD),
    "gateway": _kills(Part.GATEWAY),
    "inference": _kills(Part.INFERENCE),
    "primary+shard": _kills(Part.PRIMARY, Part.SHARD),
    "shard+gateway": _kills(Part.SHARD, Part.GATEWAY),
    _ADD: (Strike(Act.ADD, Part.SHARD),),
    _DRAIN: (Strike(Act.DRAIN, Part.SHARD),),
}
_CLUSTER: Final = {
    "replica": _kills(Part.REPLICA),
    "primary-held": (Strike(Act.HOLD, Part.PRIMARY),),
    "primary-held+shard": (Strike(Act.HOLD, Part.PRIMARY), Strike(Act.KILL, Part.SHARD)),
    "replica+gateway": _kills(Part.REPLICA, Part.GATEWAY),
}
# Nobody is left to take over: what is acknowledged is on the disks alone until they are back.
_TOGETHER: Final = {
    "pair": _kills(Part.PRIMARY, Part.TWIN),
    "two-primaries": _kills(Part.PRIMARY, Part.PRIMARY),
}


def kinds(*, cluster: bool, together: bool) -> Mapping[str, tuple[Strike, ...]]:
    """The faults by kind: without a cluster those that need no replica, with `together` also those of several nodes."""
    several = _TOGETHER if cluster and together else {}
    return MappingProxyType(_ANYWHERE | (_CLUSTER if cluster else {}) | several)


def faults(seed: int, by_kind: Mapping[str, tuple[Strike, ...]]) -> Iterator[Fault]:
    """Endless rounds, each with every kind once in an order of its own; a shard is added before one is drained."""
    random = Random(seed)  # noqa: S311
    while True:
        for kind in _round(random, sorted(by_kind)):
            yield Fault(kind, by_kind[kind], random.getrandbits(32), random.randint(0, _BREATHER_MS_MAX))


def targets(fault: Fault, topology: Topology) -> tuple[Target, ...]:
    """The processes that the fault hits, each at most once, and at most one of a pair unless a strike says TWIN.

    Empty where the topology has no process of a kind that the fault needs.
    """
    random = Random(fault.seed)  # noqa: S311
    pairs = random.sample(topology.pairs, len(topology.pairs))
    others = {part: random.sample(list(names), len(names)) for part, names in topology.others.items()}
    found: list[Target] = []
    for strike in fault.strikes:
        name = _chosen(strike, pairs, others, topology, found)
        if name is None:
            return ()
        found.append(Target(strike.act, name))
    return tuple(found)


def _round(random: Random, ordered: list[str]) -> list[str]:
    random.shuffle(ordered)
    if _ADD in ordered and _DRAIN in ordered:
        add, drain = ordered.index(_ADD), ordered.index(_DRAIN)
        if drain < add:
            ordered[add], ordered[drain] = _DRAIN, _ADD
    return ordered


def _chosen(
    strike: Strike,
    pairs: list[Pair],
    others: Mapping[Part, list[str]],
    topology: Topology,
    found: Sequence[Target],
) -> str | None:
    match strike.part:
        case Part.PRIMARY:
            return pairs.pop().primary if pairs else None
        case Part.REPLICA:
            return pairs.pop().replica if pairs else None
        case Part.TWIN:
            return next((pair.replica for pair in topology.pairs if pair.primary == found[-1].name), None)
        case _ if strike.act is Act.ADD:
            return ""
        case _:
            names = others.get(strike.part, [])
            return names.pop() if names else None
