from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import coverage
from compressor.coverage import Coverage
from tests.compressor.texts import sentences

costs = st.lists(st.integers(1, 20), min_size=12, max_size=12)


@given(sentences, costs, st.integers(0, 150))
def test_a_choice_is_in_order_within_the_budget_and_leaves_no_room_unused(
    texts: list[str], costs: list[int], budget: int
) -> None:
    costs = costs[: len(texts)]
    chosen = Coverage(texts, costs).choose(budget)

    assert chosen == sorted(set(chosen))
    spent = sum(costs[index] for index in chosen)
    assert spent <= budget
    left_out = set(range(len(texts))) - set(chosen)
    assert len(chosen) == 1 or all(costs[index] > budget - spent for index in left_out)


@given(sentences, costs, st.integers(0, 150))
def test_the_same_sentences_give_the_same_choice(texts: list[str], costs: list[int], budget: int) -> None:
    costs = costs[: len(texts)]
    assert Coverage(texts, costs).choose(budget) == Coverage(list(texts), list(costs)).choose(budget)


@given(sentences.map(lambda texts: [text.replace("?", ".") for text in texts[:7]]), costs, st.integers(1, 60))
def test_a_choice_is_worth_what_the_theorem_promises(texts: list[str], costs: list[int], budget: int) -> None:
    costs = costs[: len(texts)]
    table = Coverage(texts, costs)
    every = chain.from_iterable(combinations(range(len(texts)), size) for size in range(len(texts) + 1))
    best = max(table.worth(choice) for choice in every if sum(costs[index] for index in choice) <= budget)

    assert table.worth(table.choose(budget)) >= 0.316 * best


@given(sentences, costs)
def test_a_budget_for_all_keeps_all(texts: list[str], costs: list[int]) -> None:
    costs = costs[: len(texts)]
    assert Coverage(texts, costs).choose(sum(costs)) == list(range(len(texts)))


def test_names_and_numbers_come_before_common_words() -> None:
    texts = ["We had a nice time over there.", "We saw Caroline at 14 Elm Road.", "We had a nice meal over there."]

    assert Coverage(texts, [7, 7, 7]).choose(7) == [1]


def test_a_statement_comes_before_the_question_that_asks_for_it() -> None:
    texts = ["Was the lamp painted in Osaka?", "The lamp was painted in Osaka."]

    assert Coverage(texts, [6, 6]).choose(6) == [1]


def test_what_was_said_is_not_said_again() -> None:
    texts = ["The boat left Osaka.", "The boat left Osaka.", "Melanie found a letter."]

    assert Coverage(texts, [5, 5, 5]).choose(10) == [0, 2]


def test_sentences_without_a_word_are_never_worth_their_place() -> None:
    assert Coverage(["----", "* * *", "Osaka."], [1, 1, 1]).choose(3) == [2]
    assert Coverage(["----"], [1]).choose(3) == []


def test_beyond_the_bound_of_evaluations_the_choice_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Any two lines share words, so each choice makes most other gains stale.
    texts = [f"{number % 40} {number % 41} {number % 43}" for number in range(2_000)]
    table = Coverage(texts, [3.0] * len(texts))
    exact = table.choose(900)
    monkeypatch.setattr(coverage, "EVALUATIONS_MAX", 100)

    quick = table.choose(900)

    assert len(quick) == len(exact) == 300
    assert table.worth(quick) > 0.7 * table.worth(exact)
