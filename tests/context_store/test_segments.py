"""Segments: the same bounds for every shard at any time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from context_store.hot.history import History
from context_store.log.fragments import estimate_tokens
from context_store.window.segments import Segments
from services.digest import EMPTY

TOKENS = 100


def history_of(sizes: list[int]) -> History:
    history = History()
    for number, size in enumerate(sizes, 1):
        history.append(number.to_bytes(16, "big"), size)
    return history


def bounds(segments: Segments) -> list[tuple[int, int]]:
    return [segments[index] for index in range(len(segments))]


@given(st.lists(st.integers(1, 300), max_size=60), st.lists(st.integers(0, 60)))
def test_bounds_do_not_depend_on_when_they_were_sought(sizes: list[int], stops: list[int]) -> None:
    history = history_of(sizes)
    at_once, by_and_by = Segments(TOKENS), Segments(TOKENS)
    at_once.advance(history, len(sizes))
    for stop in sorted(min(stop, len(sizes)) for stop in stops):
        by_and_by.advance(history, stop)
    by_and_by.advance(history, len(sizes))
    assert bounds(at_once) == bounds(by_and_by)


@given(st.lists(st.integers(1, 300), max_size=60))
def test_segments_join_and_are_full(sizes: list[int]) -> None:
    segments = Segments(TOKENS)
    segments.advance(history_of(sizes), len(sizes))
    following = 1
    for first, last in bounds(segments):
        assert first == following
        weights = [estimate_tokens(size) for size in sizes[first - 1 : last]]
        assert sum(weights[:-1]) < TOKENS <= sum(weights)
        following = last + 1
    for sequence in range(1, len(sizes) + 1):
        index = segments.holding(sequence)
        assert (index is None) == (sequence >= following)
        if index is not None:
            assert segments[index][0] <= sequence <= segments[index][1]


def test_erasing_moves_no_bound_and_void_turns_weigh_nothing() -> None:
    sizes = [120] * 10
    segments = Segments(TOKENS)
    segments.advance(history_of(sizes), 10)
    erased = history_of(sizes)
    erased.erase(3)
    cold = History()
    for sequence in range(1, 11):
        if sequence == 3:
            cold.append_erased()
            cold.erase(3, 120)
        else:
            cold.append(erased.digest(sequence), 120)
    for history in (erased, cold):
        again = Segments(TOKENS)
        again.advance(history, 10)
        assert bounds(again) == bounds(segments)
    assert cold.digest(3) == EMPTY
    void = History()
    void.append(b"a" * 16, 120, turn=1)
    void.append(b"b" * 16, 9_000, turn=2)
    void.void_turn(2, 2, 2)
    void.erase(2)
    only = Segments(TOKENS)
    only.advance(void, 2)
    assert bounds(only) == []
