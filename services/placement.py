"""Which replica a session's turn goes to: its owner while that has room, else where the turn costs least. Pure.

Bounded loads: Mirrokni, Thorup and Zadimoghaddam, SODA 2018. A session that had to go elsewhere comes back as soon as
its owner is below its bound; until then it stays where its window is warm.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from isthmus.session.v1 import turn_pb2

Reason: TypeAlias = turn_pb2.Placement.Reason.ValueType


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a replica has enough: with `factor` times its fair share of the requests, and at least `free` of them."""

    factor: float
    free: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The replica chosen, and why it was not the owner where it was not."""

    member: str
    owner: str
    reason: Reason


def choose(
    preference: Iterable[str],
    weights: Mapping[str, float],
    load: Mapping[str, int],
    bounds: Bounds,
    *,
    away: Collection[str] = frozenset(),
    full: Collection[str] = frozenset(),
    warm: str = "",
) -> Choice:
    """The first in `preference` that has room with this request added, but a `warm` one before all except the owner.

    `preference` names all members of `weights`, the session's owner first. `load` counts the requests that each has;
    who is not in it has none. Those in `away` and those that said they are `full` are passed over, and have no share.
    Of the others some member is always below its share, so one is found. Raises LookupError if there are no others.
    """
    walk = iter(preference)
    owner = next(walk, "")
    taking = {member: weight for member, weight in weights.items() if member not in away and member not in full}
    if not taking:
        raise LookupError("the ring has no members")
    total = sum(load.get(member, 0) for member in taking) + 1
    share = bounds.factor * total / math.fsum(taking.values())

    def has_room(member: str) -> bool:
        return member in taking and load.get(member, 0) < max(bounds.free, math.ceil(share * taking[member]))

    if has_room(owner):
        return Choice(owner, owner, turn_pb2.Placement.REASON_OWNER)
    reason = turn_pb2.Placement.REASON_AWAY if owner in away else turn_pb2.Placement.REASON_SPILLED
    return Choice(next(filter(has_room, chain((warm,), walk))), owner, reason)
