"""What a reply says is looked up in texts: what stands in them is grounded, the rest is told by its place."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.claims.grounding import Grounded, Grounding
from services.claims.words import informative, sentences, stems

PASSAGES = [
    "The lighthouse of Alexandria was built under Ptolemy II around 280 BC.",
    "It stood on the island of Pharos.",
]


def grounded(reply: str, passages: list[str]) -> Grounded:
    """By the bound that settings have."""
    grounding = Grounding(reply)
    for passage in passages:
        grounding.read(passage)
    return grounding.found(0.5)


def test_a_reply_that_keeps_to_the_passages_is_grounded() -> None:
    found = grounded("The lighthouse was built around 280 BC, under Ptolemy.", PASSAGES)
    assert found.score > 0.8
    assert found.ungrounded == ()


def test_a_sentence_that_stands_nowhere_is_told_by_its_place() -> None:
    reply = "It stood on Pharos island for long. Napoleon destroyed the marble bridge in 1799."
    found = grounded(reply, PASSAGES)
    assert [reply[start:end] for start, end in found.ungrounded] == ["Napoleon destroyed the marble bridge in 1799."]
    assert found.score < 0.8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 3.5 m long. Is it? Yes!", ["It is 3.5 m long.", "Is it?", "Yes!"]),
        ("One\nTwo", ["One", "Two"]),
        ("  … wait... what  ", ["… wait...", "what"]),
        ("第一句。第二句！", ["第一句。", "第二句！"]),  # noqa: RUF001 - sentences end so there
        (" \n ", []),
    ],
)
def test_sentences_are_cut_where_they_end(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_words_are_compared_by_what_they_mean_the_same_by() -> None:
    assert stems("Two birds, 1,000 houses; she walked") == stems("2 bird 1000 house walking")
    assert informative("The Rhine has 12 bridges") == {"rhin": 2.5, "12": 2.5, "bridg": 1.0}
    assert stems("第一句") == {"第一", "一句"}


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=3))
def test_the_score_is_a_share_and_more_passages_never_lower_it(reply: str, passages: list[str]) -> None:
    found = grounded(reply, passages)
    assert 0 <= found.score <= 1
    assert grounded(reply, [*passages, reply]).score >= found.score


@given(st.text(max_size=80))
def test_what_is_said_again_is_grounded_and_places_are_in_order(reply: str) -> None:
    again = grounded(reply, [reply])
    assert (again.score, again.ungrounded) == (1.0, ())
    spans = list(sentences(reply))
    assert all(reply[start:end].strip() == reply[start:end] != "" for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
