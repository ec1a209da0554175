"""The planner by property: it fits, it covers everything once, it is deterministic, and a prefix stays a prefix."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from context_store.hot.history import History, Tally
from context_store.log.fragments import estimate_tokens
from context_store.window.epoch import Base, Marks, Past, TurnTooLargeError, plan_epoch, rebase_without
from context_store.window.summaries import SummaryRef, coarsest_cover
from context_store.window.window import Window
from services.digest import EMPTY, chain

MARKS = Marks(low_ratio=0.5, summary_share=0.5)


@dataclass(frozen=True)
class Row:
    size: int
    turn: int
    pinned: bool
    exact: int | None


rows = st.builds(
    Row,
    size=st.integers(1, 900),
    turn=st.integers(0, 5),
    pinned=st.sampled_from([True] + [False] * 7),
    exact=st.none() | st.integers(1, 300),
)


def build(log: list[Row], void: set[int]) -> History:
    history = History()
    for number, row in enumerate(log, 1):
        history.append(number.to_bytes(16, "big"), row.size, row.turn, row.pinned)
        if row.exact is not None:
            history.set_count(number, row.exact)
    history.void_turns(void)
    return history


def summary(first: int, last: int, tokens: int, level: int = 1, version: int = 1) -> SummaryRef:
    return SummaryRef(first, last, level, "m", version, tokens, tokens * 3, bytes([level, version]) * 8)


@st.composite
def logs(draw: st.DrawFn) -> tuple[History, list[SummaryRef]]:
    log = draw(st.lists(rows, min_size=1, max_size=40))
    history = build(log, draw(st.sets(st.integers(1, 5), max_size=2)))
    summaries: dict[str, SummaryRef] = {}
    for _ in range(draw(st.integers(0, 10))):
        first = draw(st.integers(1, len(log)))
        last = draw(st.integers(first, min(len(log), first + 9)))
        one = summary(first, last, draw(st.integers(1, 200)), draw(st.integers(1, 3)), draw(st.integers(1, 2)))
        summaries[one.name] = one
    return history, list(summaries.values())


scales = st.sampled_from([0.5, 1.0, 1.7])


def plan(history: History, summaries: list[SummaryRef], own: int, tokens_max: int, scale: float) -> Base | None:
    past = Past(history, summaries, history.revision + 1, scale)
    try:
        return plan_epoch(past, Tally(0, own), tokens_max, MARKS, epoch=2, began=history.revision + 1)
    except TurnTooLargeError:
        return None


@given(logs(), st.integers(1, 300), st.integers(50, 8_000), scales)
def test_a_new_epoch_fits_or_says_that_it_cannot(
    log: tuple[History, list[SummaryRef]], own: int, tokens_max: int, scale: float
) -> None:
    history, summaries = log
    base = plan(history, summaries, own, tokens_max, scale)
    pinned = history.sum_of(one for one in history.live(1, history.revision) if history.is_pinned(one))
    must = (pinned + Tally(0, own)).tokens(scale)
    assert (base is None) == (must > tokens_max)
    if base:
        window = Window(base, history)
        whole = (window.tally(len(window)) + Tally(0, own)).tokens(scale)
        assert whole <= max(tokens_max * MARKS.low_ratio, must)


@given(logs(), st.integers(1, 300), st.integers(50, 8_000), scales)
def test_every_fragment_is_verbatim_or_summarised_or_named(
    log: tuple[History, list[SummaryRef]], own: int, tokens_max: int, scale: float
) -> None:
    history, summaries = log
    base = plan(history, summaries, own, tokens_max, scale)
    if base is None:
        return
    verbatim = [item for item in Window(base, history).items(0, len(Window(base, history))) if isinstance(item, int)]
    assert len(set(verbatim)) == len(verbatim)
    assert base.left_out_more == 0 or len(base.left_out) == 64
    for one, following in pairwise(base.summaries):
        assert one.last < following.first
    left_out_tokens = 0
    for sequence in history.live(1, history.revision):
        said = sequence in verbatim
        summarised = any(one.covers(sequence) for one in base.summaries) and not history.is_pinned(sequence)
        named = any(span.first <= sequence <= span.last for span in base.left_out) and not history.is_pinned(sequence)
        assert said + summarised + named == 1 or base.left_out_more
        left_out_tokens += 0 if said or summarised else history.cost(sequence).tokens(scale)
    assert base.left_out_tokens == left_out_tokens
    assert not set(verbatim) & {one for one in range(1, history.revision + 1) if history.is_void(one)}


@given(logs(), st.integers(1, 300), st.integers(50, 8_000))
def test_the_same_past_makes_the_same_plan(log: tuple[History, list[SummaryRef]], own: int, tokens_max: int) -> None:
    history, summaries = log
    assert plan(history, summaries, own, tokens_max, 1.0) == plan(history, summaries[::-1], own, tokens_max, 1.0)


@given(logs(), st.lists(rows, max_size=20), st.integers(400, 8_000))
def test_within_an_epoch_a_window_only_grows(
    log: tuple[History, list[SummaryRef]], more: list[Row], tokens_max: int
) -> None:
    history, summaries = log
    window = Window(plan(history, summaries, 1, tokens_max, 1.0) or Base(), history)
    before = [(count, window.digest(count)) for count in range(len(window) + 1)]
    for number, row in enumerate(more, history.revision + 1):
        history.append(number.to_bytes(16, "big"), row.size, 0, row.pinned)
        window.grow()
    assert [(count, window.digest(count)) for count, _ in before] == before
    again = Window(window.base, history)
    assert again.digest(len(again)) == window.digest(len(window))
    assert again.tally(len(again)) == window.tally(len(window))


@given(logs(), st.integers(1, 5))
def test_a_turn_that_comes_to_nothing_leaves_no_trace(log: tuple[History, list[SummaryRef]], size: int) -> None:
    history, _ = log
    window = Window(Base(), history)
    first = history.revision + 1
    for number in range(first, first + size):
        history.append(number.to_bytes(16, "big"), 10, turn=99)
    history.append(b"d" * 16, 10)
    window.grow()
    window.truncate(first)
    history.void_turn(99, first, first + size)
    window.grow()
    clean = Window(Base(), history)
    assert window.digest(len(window)) == clean.digest(len(clean))
    assert window.tally(len(window)) == clean.tally(len(clean))


@given(logs(), st.integers(400, 8_000), st.data())
def test_an_erased_fragment_leaves_the_window_and_the_rest_is_named(
    log: tuple[History, list[SummaryRef]], tokens_max: int, data: st.DataObject
) -> None:
    history, summaries = log
    base = plan(history, summaries, 1, tokens_max, 1.0)
    if base is None:
        return
    sequence = data.draw(st.integers(1, history.revision))
    history.erase(sequence)
    past = Past(history, [one for one in summaries if not one.covers(sequence)], history.revision + 1)
    renewed = rebase_without(base, past, {sequence})
    window = Window(renewed, history)
    assert renewed.epoch == base.epoch + 1
    assert not any(
        one.covers(sequence) if isinstance(one, SummaryRef) else one == sequence for one in window.items(0, len(window))
    )
    verbatim = {item for item in window.items(0, len(window)) if isinstance(item, int)}
    for one in history.live(1, history.revision):
        covered = any(part.covers(one) for part in renewed.summaries)
        named = any(span.first <= one <= span.last for span in renewed.left_out)
        assert one in verbatim or covered or named or renewed.left_out_more


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(1, 3), st.integers(1, 2)), max_size=15))
def test_a_cover_is_disjoint_and_prefers_the_coarse(spans: list[tuple[int, int, int, int]]) -> None:
    available = {
        one.name: one for one in (summary(first, first + more, 5, level, v) for first, more, level, v in spans)
    }
    cover = coarsest_cover(available.values(), before=25)
    assert all(one.last < following.first for one, following in pairwise(cover))
    assert all(one.last < 25 for one in cover)
    for one in available.values():
        overlapping = [other for other in cover if other.first <= one.last and one.first <= other.last]
        assert one.last >= 25 or one in cover or any(other.level >= one.level for other in overlapping)


def test_the_chain_is_the_contracts() -> None:
    history = build([Row(9, 0, False, None), Row(9, 0, False, None)], set())
    window = Window(Base(), history)
    assert window.digest(0) == EMPTY
    assert window.digest(2) == chain(chain(EMPTY, history.digest(1)), history.digest(2))


def test_summaries_then_the_newest_words_fill_a_new_epoch() -> None:
    history = build([Row(276, 0, number == 1, None) for number in range(1, 101)], set())
    assert history.tokens(1) == 100
    summaries = [summary(first, first + 9, 50) for first in range(1, 71, 10)]
    base = plan(history, summaries, 100, 3_000, 1.0)
    assert base is not None
    # 1500 tokens: 100 its own, 100 pinned; of the rest half for six in their words, then summaries, then three more.
    assert base.pinned == (1,)
    assert [one.first for one in base.summaries] == [1, 11, 21, 31, 41, 51, 61]
    assert base.tail_from == 92
    assert [(span.first, span.last) for span in base.left_out] == [(71, 91)]


def test_what_is_too_large_is_refused_with_its_size() -> None:
    history = build([Row(300, 0, True, None)], set())
    with pytest.raises(TurnTooLargeError) as refused:
        plan_epoch(Past(history, [], 2), Tally(0, estimate_tokens(300)), 200, MARKS, 2, 2)
    assert (refused.value.tokens, refused.value.tokens_max) == (216, 200)


def test_a_much_larger_room_is_worth_a_new_epoch_only_where_something_was_left_out() -> None:
    history = build([Row(276, 0, False, None)] * 20, set())
    base = plan(history, [], 100, 1_000, 1.0)
    assert base is not None
    window = Window(base, history)
    assert base.left_out_tokens
    assert window.suits(500, 1_999)
    assert not window.suits(500, 2_000)
    assert Window(Base(tokens_max=1_000), history).suits(500, 100_000)
