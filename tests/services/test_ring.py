"""The ring: every key has one owner, members come and go with the least movement, load stays bounded."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ring import Ring

NODES = 128
KEYS = [f"tenant/session-{number}" for number in range(2_000)]

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
members = st.dictionaries(names, st.floats(0.25, 4.0), min_size=1, max_size=8)


@given(members, names)
def test_owner_is_the_same_in_any_process_and_order(weights: dict[str, float], key: str) -> None:
    shuffled = dict(reversed(weights.items()))
    assert Ring(weights, NODES).owner(key) == Ring(shuffled, NODES).owner(key)


@given(members, names)
def test_preference_names_each_member_once_and_the_owner_first(weights: dict[str, float], key: str) -> None:
    ring = Ring(weights, NODES)
    preference = list(ring.preference(key))
    assert preference[0] == ring.owner(key)
    assert sorted(preference) == sorted(weights)


@given(members, names)
def test_preference_is_who_owns_the_key_when_those_before_are_gone(weights: dict[str, float], key: str) -> None:
    for gone, heir in pairwise(Ring(weights, NODES).preference(key)):
        weights = {member: weight for member, weight in weights.items() if member != gone}
        assert Ring(weights, NODES).owner(key) == heir


@given(members, names)
def test_a_new_member_only_wins_keys(weights: dict[str, float], newcomer: str) -> None:
    before, after = Ring(weights, NODES), Ring(weights | {newcomer: 1.0}, NODES)
    if newcomer in weights:
        return
    moved = [key for key in KEYS[:200] if before.owner(key) != after.owner(key)]
    assert all(after.owner(key) == newcomer for key in moved)


def test_a_new_member_wins_about_its_share() -> None:
    before = Ring({f"m{number}": 1.0 for number in range(4)}, NODES)
    after = Ring({f"m{number}": 1.0 for number in range(5)}, NODES)
    moved = sum(before.owner(key) != after.owner(key) for key in KEYS)
    assert 0.1 < moved / len(KEYS) < 0.3


def test_keys_spread_by_weight() -> None:
    owned = Counter(map(Ring({"small": 1.0, "large": 3.0}, NODES).owner, KEYS))
    assert 2.0 < owned["large"] / owned["small"] < 4.5


def test_equal_members_own_about_the_same() -> None:
    owned = Counter(map(Ring({f"m{number}": 1.0 for number in range(8)}, NODES).owner, KEYS))
    assert max(owned.values()) / min(owned.values()) < 2.0


@given(members, st.integers(0, 400), st.floats(1.01, 2.0))
def test_no_member_is_loaded_beyond_its_bound(weights: dict[str, float], count: int, factor: float) -> None:
    ring, load = Ring(weights, 16), Counter[str]()
    for number in range(count):
        load[ring.choose(f"k{number}", load, factor)] += 1
    total = sum(weights.values())
    for member, held in load.items():
        assert held <= math.ceil(factor * count * weights[member] / total)


@given(members, names)
def test_an_idle_ring_chooses_the_owner(weights: dict[str, float], key: str) -> None:
    ring = Ring(weights, NODES)
    assert ring.choose(key, {}, 1.25) == ring.owner(key)


def test_load_of_strangers_counts_for_nothing() -> None:
    ring = Ring({"a": 1.0}, NODES)
    assert ring.choose("k", {"gone": 10_000}, 1.25) == "a"


def test_an_empty_ring_says_so() -> None:
    ring = Ring({}, NODES)
    with pytest.raises(LookupError, match="no members"):
        ring.owner("k")
    with pytest.raises(LookupError, match="no members"):
        ring.choose("k", {}, 1.25)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_must_be_above_zero(weight: float) -> None:
    with pytest.raises(ValueError, match=r"members\[a\]: expected a weight above 0"):
        Ring({"a": weight}, NODES)


def test_virtual_nodes_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="virtual_nodes: expected at least 1"):
        Ring({"a": 1.0}, 0)
