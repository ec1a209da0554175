"""The ring: every key has one owner, members come and go with little movement, shares and loads stay bounded."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ring import Ring

NODES = 512
SLOTS = 65_536
FACTOR = 1.125
KEYS = [f"tenant/session-{number}" for number in range(20_000)]

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
members = st.dictionaries(names, st.floats(0.25, 4.0), min_size=1, max_size=8)


def ring(weights: dict[str, float], nodes: int = NODES) -> Ring:
    return Ring(weights, nodes, SLOTS, FACTOR)


def equal(count: int, first: int = 0) -> dict[str, float]:
    return {f"context_store-{number}": 1.0 for number in range(first, first + count)}


def owners(weights: dict[str, float], keys: list[str] = KEYS) -> list[str]:
    return list(map(ring(weights).owner, keys))


@given(members, names)
def test_owner_is_the_same_in_any_process_and_order(weights: dict[str, float], key: str) -> None:
    shuffled = dict(reversed(weights.items()))
    assert ring(weights).owner(key) == ring(shuffled).owner(key)


@pytest.mark.parametrize(
    ("key", "owner"),
    [("local/s1", "context_store-2"), ("local/s2", "context_store-1"), ("local/s3", "context_store-2")],
)
def test_owners_of_today_are_those_of_tomorrow(key: str, owner: str) -> None:
    """Shards of two releases serve side by side while a mesh is renewed: they have to agree."""
    assert ring(equal(3)).owner(key) == owner


@given(members, names)
def test_preference_names_each_member_once_and_the_owner_first(weights: dict[str, float], key: str) -> None:
    one = ring(weights)
    preference = list(one.preference(key))
    assert preference[0] == one.owner(key)
    assert sorted(preference) == sorted(weights)


@settings(max_examples=30)
@given(members)
def test_shares_follow_the_weights_within_their_bound(weights: dict[str, float]) -> None:
    owned = Counter(owners(weights))
    total = sum(weights.values())
    for member, weight in weights.items():
        share = len(KEYS) * weight / total
        noise = 5 * math.sqrt(share)
        assert owned[member] <= FACTOR * share + noise
        # What the others may take beyond their share is all that this one may miss, less what points scatter.
        assert owned[member] >= 0.6 * share - noise


def test_a_million_keys_on_a_thousand_members() -> None:
    owned = Counter(map(ring(equal(1_000)).owner, (f"tenant/session-{number}" for number in range(1_000_000))))
    assert len(owned) == 1_000
    assert max(owned.values()) <= 1.25 * 1_000


def test_a_fourth_member_takes_its_quarter_and_hands_it_back() -> None:
    three, four = owners(equal(3)), owners(equal(4))
    moved = [now for before, now in zip(three, four, strict=True) if before != now]
    assert len(moved) / len(KEYS) <= 0.25 + 0.05
    assert moved.count("context_store-3") / len(moved) >= 0.99


@settings(max_examples=30)
@given(members, names, st.floats(0.25, 4.0))
def test_who_joins_or_leaves_moves_little_beyond_its_share(
    weights: dict[str, float], newcomer: str, weight: float
) -> None:
    without = {member: each for member, each in weights.items() if member != newcomer}
    if not without:
        return
    before, after = owners(without), owners(without | {newcomer: weight})
    pairs = list(zip(before, after, strict=True))
    won = sum(now == newcomer for _, now in pairs)
    between_others = sum(then != now != newcomer for then, now in pairs)
    share = weight / (weight + sum(without.values()))
    assert won / len(KEYS) <= FACTOR * share + 0.01
    assert between_others / len(KEYS) <= 0.02


def test_a_rolling_renewal_of_many_members_moves_little_each_time() -> None:
    before = owners(equal(100))
    for gone in range(5):
        after = owners(equal(100 - gone - 1, gone + 1))
        assert sum(then != now for then, now in zip(before, after, strict=True)) / len(KEYS) <= 0.03
        before = after


def test_a_ring_is_built_and_asked_in_no_time() -> None:
    ring(equal(2))
    seconds = []
    for count in (16, 1_000):
        began = time.process_time()
        built = ring(equal(count))
        seconds.append(time.process_time() - began)
        began = time.process_time()
        for key in KEYS[:1_000]:
            built.owner(key)
        assert (time.process_time() - began) / 1_000 < 100e-6
    assert seconds[0] < 0.1
    assert seconds[1] < 0.5


def test_an_empty_ring_says_so() -> None:
    with pytest.raises(LookupError, match="no members"):
        ring({}).owner("k")


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_must_be_above_zero(weight: float) -> None:
    with pytest.raises(ValueError, match=r"members\[a\]: expected a weight above 0"):
        ring({"a": weight})


@pytest.mark.parametrize(
    ("nodes", "slots", "factor", "named"),
    [(0, 256, 1.25, "virtual_nodes"), (8, 0, 1.25, "slots"), (8, 256, 1.0, "share_factor")],
)
def test_a_ring_says_what_is_out_of_bounds(nodes: int, slots: int, factor: float, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}: expected"):
        Ring({"a": 1.0}, nodes, slots, factor)
