"""A consistent-hash ring with virtual nodes, weights and bounded load. Pure: same input, same owner, in any process.

Consistent hashing: Karger et al., STOC 1997. Bounded loads: Mirrokni, Thorup and Zadimoghaddam, SODA 2018.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import chain

_HASH_BYTES = 8


class Ring:
    """Members on a circle of 64-bit points, each with `virtual_nodes` points times its weight (at least one).

    When a member comes or goes, only the keys that it wins or loses move.
    """

    def __init__(self, members: Mapping[str, float], virtual_nodes: int) -> None:
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes: expected at least 1, got {virtual_nodes}")
        for member, weight in members.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"members[{member}]: expected a weight above 0, got {weight}")
        self._weights = dict(members)
        self._weight_total = sum(members.values())
        # Two points may coincide; the member's name decides then, so that the order of insertion does not.
        nodes = sorted(
            (_point(f"{member}#{number}"), member)
            for member, weight in members.items()
            for number in range(max(1, round(virtual_nodes * weight)))
        )
        self._points = [point for point, _ in nodes]
        self._owners = [owner for _, owner in nodes]

    def __len__(self) -> int:
        return len(self._weights)

    def owner(self, key: str) -> str:
        """The member that owns the key. Raises LookupError on an empty ring."""
        return self._owners[self._index(key)]

    def preference(self, key: str) -> Iterator[str]:
        """All members, each once, in the order in which they would own the key if those before were gone."""
        start = self._index(key)
        seen: set[str] = set()
        for index in chain(range(start, len(self._owners)), range(start)):
            owner = self._owners[index]
            if owner not in seen:
                seen.add(owner)
                yield owner
                if len(seen) == len(self._weights):
                    return

    def choose(self, key: str, load: Mapping[str, int], factor: float) -> str:
        """The first member in preference whose load stays within `factor` times its fair share with this key added.

        `load` counts what each member holds now; members that it does not name hold nothing. Some member is always
        below its share, so one is found. Raises LookupError on an empty ring.
        """
        total = sum(load.get(member, 0) for member in self._weights) + 1
        return next(
            member
            for member in self.preference(key)
            if load.get(member, 0) < math.ceil(factor * total * self._weights[member] / self._weight_total)
        )

    def _index(self, key: str) -> int:
        if not self._points:
            raise LookupError("the ring has no members")
        return bisect_left(self._points, _point(key)) % len(self._points)


def _point(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=_HASH_BYTES).digest(), "big")
