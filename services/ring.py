"""A consistent-hash ring with virtual nodes, weights and bounded load. Pure: same input, same owner, in any process.

Keys are hashed to a fixed number of slots and members own slots, so that the bound needs no counter that processes
would have to share. Consistent hashing: Karger et al., STOC 1997. Bounded loads: Mirrokni, Thorup and Zadimoghaddam,
SODA 2018, with slots for balls. What a member has no room for goes on to the next one on the circle, by deferred
acceptance: Gale and Shapley, 1962.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Numbers: TypeAlias = NDArray[np.intp]

# The low bits of a point say whose it is, so that points are sorted with their owners.
_MEMBER_BITS: Final = 16
_MEMBER_MASK: Final = np.uint64((1 << _MEMBER_BITS) - 1)
MEMBERS_MAX: Final = 1 << _MEMBER_BITS
SLOTS_MAX: Final = 1 << 24


class Ring:
    """Members on a circle, each with `virtual_nodes` points times its weight (at least one), and the slots they own.

    A member owns at most `share_factor` times its fair share of the slots, rounded up. When a member comes or goes, the
    slots that it wins or loses move, and the few that the new bounds push on.
    """

    def __init__(
        self, members: Mapping[str, float], virtual_nodes: int, slots: int = 1 << 16, share_factor: float = 1.125
    ) -> None:
        _check(members, virtual_nodes, slots, share_factor)
        # By name, so that the order of insertion decides nothing.
        self._names = sorted(members)
        self.weights = {name: members[name] for name in self._names}
        self._slots = slots
        self._points = _circle(self.weights, virtual_nodes)
        # The first point of each slot's walk around the circle.
        places = np.arange(slots, dtype=np.uint64) * np.uint64((1 << 64) // slots)
        self._starts = np.searchsorted(self._points, places) % max(1, len(self._points))
        self._owners = self._assign(share_factor) if self._names else np.zeros(0, dtype=np.uint16)

    def __len__(self) -> int:
        return len(self._names)

    def owner(self, key: str) -> str:
        """The member that owns the key. Raises LookupError on an empty ring."""
        return self._names[self._owners.item(self._slot(key))]

    def shares(self) -> dict[str, float]:
        """What part of all keys each member owns."""
        counts = np.bincount(self._owners, minlength=len(self._names))
        return {name: count / self._slots for name, count in zip(self._names, counts.tolist(), strict=True)}

    def preference(self, key: str) -> Iterator[str]:
        """All members, each once: the key's owner, then the others in their order on the circle from its slot on."""
        slot = self._slot(key)
        first = self._owners.item(slot)
        yield self._names[first]
        seen = {first}
        start = self._starts.item(slot)
        for step in range(len(self._points)):
            member = self._points.item((start + step) % len(self._points)) & (MEMBERS_MAX - 1)
            if member not in seen:
                seen.add(member)
                yield self._names[member]
            if len(seen) == len(self._names):
                return

    def _slot(self, key: str) -> int:
        if not self._names:
            raise LookupError("the ring has no members")
        return _hash(key) * self._slots >> 64

    def _assign(self, share_factor: float) -> NDArray[np.uint16]:
        """The owner of each slot: slots walk on while those with a better rank fill the member that they are at.

        Ranks are fixed, so the outcome follows from members and bounds alone, not from the order of the work.
        """
        share = share_factor * self._slots / math.fsum(self.weights.values())
        bounds = np.array([math.ceil(share * weight) for weight in self.weights.values()])
        ranking = _ranking(self._slots)
        at = self._starts.copy()
        members = (self._points & _MEMBER_MASK).astype(np.uint16)
        owners = members[at]
        while True:
            crowded = np.bincount(owners, minlength=len(bounds)) > bounds
            if not crowded.any():
                return owners
            inside = ranking[crowded[owners[ranking]]]
            refused = _beyond(owners, inside, bounds)
            at[refused] = (at[refused] + 1) % len(members)
            owners[refused] = members[at[refused]]


def _beyond(owners: NDArray[np.uint16], slots: Numbers, bounds: Numbers) -> Numbers:
    """Of the slots, given by rank, those that are behind as many of the same member as its bound."""
    held = owners[slots]
    # Stable, and by counting for 16 bits: each member's slots stay in their order.
    order = np.argsort(held, kind="stable")
    grouped = held[order]
    counts = np.bincount(grouped, minlength=len(bounds))
    place = np.arange(len(grouped)) - (np.cumsum(counts) - counts)[grouped]
    return slots[order[place >= bounds[grouped]]]


def _circle(weights: Mapping[str, float], virtual_nodes: int) -> Words:
    """The points in order, each with its member's number in its low bits."""
    counts = np.array([max(1, round(virtual_nodes * weight)) for weight in weights.values()], dtype=np.intp)
    members = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    seeds = np.array([_hash(name) for name in weights], dtype=np.uint64)
    numbers = np.arange(len(members)) - np.repeat(np.cumsum(counts) - counts, counts)
    points = _mix(seeds[members] + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.sort((points & ~_MEMBER_MASK) | members)


@lru_cache(maxsize=8)
def _ranking(slots: int) -> Numbers:
    """The slots by rank: a fixed order that has nothing to do with their places on the circle."""
    return np.argsort(_mix(np.arange(slots, dtype=np.uint64)), kind="stable")


def _mix(words: Words) -> Words:
    """Spreads 64-bit words evenly: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _check(members: Mapping[str, float], virtual_nodes: int, slots: int, share_factor: float) -> None:
    if virtual_nodes < 1:
        raise ValueError(f"virtual_nodes: expected at least 1, got {virtual_nodes}")
    if not 1 <= slots <= SLOTS_MAX:
        raise ValueError(f"slots: expected 1 to {SLOTS_MAX}, got {slots}")
    if not share_factor > 1:
        raise ValueError(f"share_factor: expected more than 1, got {share_factor}")
    if len(members) > MEMBERS_MAX:
        raise ValueError(f"members: expected at most {MEMBERS_MAX}, got {len(members)}")
    for member, weight in members.items():
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"members[{member}]: expected a weight above 0, got {weight}")
