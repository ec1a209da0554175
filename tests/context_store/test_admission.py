"""Which sessions stay in memory: within the bytes, least recently used out first, and no scan flushes the hot ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from context_store.hot.admission import Admission

steps = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60), st.booleans()), max_size=60)


def settle(admission: Admission[int], busy: frozenset[int] = frozenset()) -> list[int]:
    """Lets go of what is too much; which keys, in order."""
    gone = []
    while (key := admission.excess(lambda each: each not in busy)) is not None:
        admission.forget(key)
        gone.append(key)
    return gone


@given(steps, st.sets(st.integers(0, 9)))
def test_bytes_add_up_and_only_what_is_busy_may_be_too_much(used: list[tuple[int, int, bool]], busy: set[int]) -> None:
    admission, sizes = Admission[int](100, 0.2), dict[int, int]()
    for key, size, again in used:
        admission.keep(key, size, again=again)
        sizes[key] = size
        for gone in settle(admission, frozenset(busy)):
            del sizes[gone]
        assert admission.bytes == sum(sizes.values())
        assert admission.protected_bytes <= 80
        assert admission.bytes <= 100 or set(sizes) <= busy
    for key in sizes:
        admission.forget(key)
    assert (admission.bytes, admission.protected_bytes) == (0, 0)


def test_the_least_recently_used_newcomer_goes_first() -> None:
    admission = Admission[int](30, 0.2)
    for key in (1, 2, 3):
        admission.keep(key, 10, again=False)
    admission.keep(1, 10, again=False)
    admission.keep(4, 10, again=False)
    assert settle(admission) == [2]


def test_a_scan_goes_through_the_newcomers_part_alone() -> None:
    admission = Admission[int](100, 0.2)
    for key in range(8):
        admission.keep(key, 10, again=False)
        admission.keep(key, 10, again=True)
    scanned = range(100, 1_100)
    gone = []
    for key in scanned:
        admission.keep(key, 10, again=False)
        gone += settle(admission)
    assert set(gone) < set(scanned)
    assert admission.protected_bytes == 80


def test_what_is_hot_now_takes_the_place_of_what_was() -> None:
    admission = Admission[int](100, 0.2)
    for key in [*range(8), *range(100, 108)]:
        admission.keep(key, 10, again=False)
        admission.keep(key, 10, again=True)
        settle(admission)
    # One that takes all the bytes and is in use: whatever else there is has to go.
    admission.keep(-1, 100, again=False)
    assert sorted(settle(admission, frozenset({-1}))) == [6, 7, *range(100, 108)]
