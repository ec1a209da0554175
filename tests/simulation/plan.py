"""What a run does and what befalls it, drawn from its seed: plain data, so that a failing run can be cut down. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final


class Kind(Enum):
    """What a client may want."""

    TURN = "turn"
    APPEND = "append"
    CANCEL = "cancel"
    ERASE = "erase"
    SUMMARISE = "summarise"
    DOCUMENT = "document"
    FREEZE = "freeze"
    FORK = "fork"
    DELETE = "delete"


class Harm(Enum):
    """What may happen to the machines."""

    CRASH_SHARD = "crash of a shard"
    CUT_LINK = "shard cut off from Valkey"
    FAIL_OVER = "failover"
    RESTART = "restart of the primary"
    MOVE_RING = "another view of the ring"
    STALL_REPLICA = "stalled replica"


@dataclass(frozen=True, slots=True)
class Op:
    """One thing that a client wants. `key` is its request_id or name; `seed` decides how it goes about it."""

    kind: Kind
    key: str
    session: str
    texts: tuple[str, ...]
    pause_s: float
    seed: int
    # A second caller does the same at about the same time.
    is_doubled: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens at a moment, for a while, to one of the shards where it is theirs.

    A failover takes a replica that has been held back for `lag_s`, from a primary that lives on for `split_s`.
    """

    harm: Harm
    at_s: float
    seconds: float
    target: int
    lag_s: float
    split_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `loss` and `repeats` are shares of messages, `lease_ms` is what drivers ask for."""

    seed: int
    is_replicated: bool
    shards_count: int
    lease_ms: int
    loss: float
    repeats: float
    room_tokens: int
    clients: tuple[tuple[Op, ...], ...]
    faults: tuple[Fault, ...]


_KINDS: Final = {
    Kind.TURN: 12,
    Kind.APPEND: 3,
    Kind.CANCEL: 1,
    Kind.ERASE: 1,
    Kind.SUMMARISE: 2,
    Kind.DOCUMENT: 1,
    Kind.FREEZE: 2,
    Kind.FORK: 1,
    Kind.DELETE: 1,
}
# Sessions that are deleted and made again; others stay, for what is promised of them is more.
_MORTAL: Final = "d"
_FORK: Final = "-fork-"
_WORDS: Final = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heath", "islet", "jetty", "knoll")
_SPAN_S: Final = 3.0


def plan_of(seed: int) -> Plan:
    """The run of a seed."""
    random = Random(seed)
    is_replicated = random.random() < 0.8
    is_calm = random.random() < 0.15
    sessions = random.choice((["s0"], ["s0"], ["s0", "s1"], ["s0", _MORTAL], [_MORTAL]))
    return Plan(
        seed=seed,
        is_replicated=is_replicated,
        shards_count=random.choice((2, 2, 3)),
        lease_ms=random.choice((150, 300, 600)),
        loss=0.0 if is_calm else random.choice((0.005, 0.02, 0.05)),
        repeats=0.0 if is_calm else random.choice((0.0, 0.05, 0.15)),
        room_tokens=random.choice((300, 500, 2_000)),
        clients=tuple(_client(random, f"c{number}", sessions) for number in range(random.choice((2, 3, 4)))),
        faults=() if is_calm else tuple(_fault(random, is_replicated) for _ in range(random.randint(0, 5))),
    )


def child_of(op: Op) -> str:
    """The name of the fork that an op makes."""
    return f"{op.session}{_FORK}{op.key}"


def is_child(session: str) -> bool:
    return _FORK in session


def _client(random: Random, name: str, sessions: list[str]) -> tuple[Op, ...]:
    ops: list[Op] = []
    known = list(sessions)
    for number, kind in enumerate(random.choices(list(_KINDS), list(_KINDS.values()), k=random.randint(2, 7))):
        op = _op(random, f"{name}-{number}", kind, known)
        ops.append(op)
        if op.kind is Kind.FORK:
            known.append(child_of(op))
    return tuple(ops)


def _op(random: Random, key: str, kind: Kind, known: list[str]) -> Op:
    mortal = [one for one in known if one.startswith(_MORTAL) or is_child(one)]
    if kind is Kind.DELETE and not mortal:
        kind = Kind.TURN
    return Op(
        kind=kind,
        key=key,
        session=random.choice(mortal if kind is Kind.DELETE else known),
        texts=tuple(
            f"{key}.{part} {' '.join(random.choices(_WORDS, k=random.randint(1, 20)))}"
            for part in range(random.choice((1, 1, 2)))
        ),
        pause_s=random.choice((0.0, 0.01, random.uniform(0, 0.6))),
        seed=random.getrandbits(32),
        is_doubled=random.random() < 0.15,
    )


def _fault(random: Random, is_replicated: bool) -> Fault:
    harms = [Harm.CRASH_SHARD, Harm.CUT_LINK, Harm.RESTART, Harm.MOVE_RING]
    if is_replicated:
        harms += [Harm.FAIL_OVER, Harm.FAIL_OVER, Harm.STALL_REPLICA]
    return Fault(
        harm=random.choice(harms),
        at_s=random.uniform(0, _SPAN_S),
        seconds=random.choice((0.02, random.uniform(0.05, 0.8))),
        target=random.getrandbits(8),
        lag_s=random.choice((0.0, random.uniform(0, 0.5))),
        split_s=random.choice((0.0, random.uniform(0, 0.3))),
    )
