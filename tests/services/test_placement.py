"""Where a turn goes: to its owner while that has room, else where it is warm, else on along the ring."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import turn_pb2

from services.placement import Bounds, Choice, choose
from services.ring import Ring

OWNER = turn_pb2.Placement.REASON_OWNER
SPILLED = turn_pb2.Placement.REASON_SPILLED
AWAY = turn_pb2.Placement.REASON_AWAY

BOUNDS = Bounds(1.25)
NAMES = "abcdefgh"


@dataclass
class Mesh:
    """What a choice is made from, but for the warm one."""

    preference: Sequence[str]
    weights: dict[str, float]
    load: dict[str, int]
    bounds: Bounds = BOUNDS
    away: set[str] = field(default_factory=set)
    full: set[str] = field(default_factory=set)

    def choose(self, warm: str = "") -> Choice:
        return choose(self.preference, self.weights, self.load, self.bounds, away=self.away, full=self.full, warm=warm)

    @property
    def taking(self) -> list[str]:
        return [member for member in self.preference if member not in self.away | self.full]

    def has_room(self, member: str) -> bool:
        """By the definition of the bound, with the request counted in."""
        total = 1 + sum(self.load.get(each, 0) for each in self.taking)
        share = (
            self.bounds.factor * total * self.weights[member] / math.fsum(self.weights[each] for each in self.taking)
        )
        return member in self.taking and self.load.get(member, 0) < max(self.bounds.free, math.ceil(share))


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    preference = draw(st.permutations(NAMES[: draw(st.integers(1, len(NAMES)))]))
    some = st.sampled_from(preference)
    return Mesh(
        preference,
        {member: draw(st.floats(0.25, 4.0)) for member in preference},
        draw(st.dictionaries(some | st.just("a stranger"), st.integers(0, 50))),
        Bounds(draw(st.floats(1.01, 2.0)), draw(st.integers(0, 8))),
        draw(st.sets(some, max_size=len(preference) - 1)),
    )


@given(meshes(), st.data())
def test_somebody_who_may_is_found_and_has_room(mesh: Mesh, data: st.DataObject) -> None:
    mesh.full = data.draw(st.sets(st.sampled_from(mesh.preference), max_size=len(mesh.taking) - 1)) & set(
        mesh.taking[1:]
    )
    choice = mesh.choose(data.draw(st.sampled_from([*mesh.preference, "", "long gone"])))
    assert choice.member in mesh.taking
    assert mesh.has_room(choice.member)
    assert choice.owner == mesh.preference[0]


@given(meshes(), st.sampled_from(["", *NAMES]))
def test_the_owner_is_chosen_exactly_while_it_has_room(mesh: Mesh, warm: str) -> None:
    choice = mesh.choose(warm)
    owner = mesh.preference[0]
    assert (choice.reason == OWNER) == (choice.member == owner) == mesh.has_room(owner)
    assert (choice.reason == AWAY) == (owner in mesh.away)


@given(meshes(), st.sampled_from(NAMES))
def test_a_warm_one_with_room_is_second_to_the_owner_alone(mesh: Mesh, warm: str) -> None:
    choice = mesh.choose(warm)
    if choice.reason != OWNER and warm in mesh.weights and mesh.has_room(warm):
        assert choice.member == warm
    else:
        assert choice == mesh.choose()


@given(meshes())
def test_without_a_warm_one_the_first_with_room_is_chosen(mesh: Mesh) -> None:
    assert mesh.choose().member == next(member for member in mesh.preference if mesh.has_room(member))


@given(meshes())
def test_who_refused_is_passed_over_and_that_is_no_absence(mesh: Mesh) -> None:
    if len(mesh.taking) < 2:
        return
    mesh.full = {mesh.choose().member}
    choice = mesh.choose()
    assert choice.member not in mesh.full
    assert mesh.preference[0] not in mesh.full or choice.reason == SPILLED


@given(meshes(), st.integers(0, 200))
def test_no_member_is_loaded_beyond_its_bound(mesh: Mesh, count: int) -> None:
    load = Counter[str]()
    mesh.load, mesh.away = load, set()
    for _ in range(count):
        load[mesh.choose().member] += 1
    total = math.fsum(mesh.weights.values())
    for member, held in load.items():
        assert held <= max(mesh.bounds.free, math.ceil(mesh.bounds.factor * count * mesh.weights[member] / total))


def test_a_session_comes_back_once_its_owner_has_room_and_stays_elsewhere_until_then() -> None:
    mesh = Mesh("abc", dict.fromkeys("abc", 1.0), {"a": 4})
    assert mesh.choose() == Choice("b", "a", SPILLED)
    mesh.load["b"] = 1
    assert mesh.choose(warm="c") == Choice("c", "a", SPILLED)
    mesh.load["a"] = 1
    assert mesh.choose(warm="c") == Choice("a", "a", OWNER)


def test_a_replica_with_little_to_do_keeps_its_sessions() -> None:
    mesh = Mesh("ab", dict.fromkeys("ab", 1.0), {"a": 3}, Bounds(1.25, free=4))
    assert mesh.choose().reason == OWNER
    mesh.load["a"] = 4
    assert mesh.choose() == Choice("b", "a", SPILLED)


def test_load_of_strangers_counts_for_nothing() -> None:
    assert Mesh("a", {"a": 1.0}, {"gone": 10_000}).choose() == Choice("a", "a", OWNER)


def test_keys_spread_by_the_ring() -> None:
    ring, load = Ring(dict.fromkeys("abc", 1.0), 16), Counter[str]()
    for number in range(300):
        load[choose(ring.preference(f"k{number}"), ring.weights, load, BOUNDS).member] += 1
    assert max(load.values()) <= math.ceil(1.25 * 300 / 3)


def test_nobody_left_says_so() -> None:
    for preference, away, full in (("", (), ()), ("a", ("a",), ()), ("ab", ("a",), ("b",))):
        with pytest.raises(LookupError, match="no members"):
            choose(preference, dict.fromkeys(preference, 1.0), {}, BOUNDS, away=away, full=full)
