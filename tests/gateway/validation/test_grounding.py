"""What stands in the passages is grounded, what stands nowhere is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.validation.grounding import grounding

PASSAGES = [
    "The lighthouse of Alexandria was built under Ptolemy II around 280 BC.",
    "It stood on the island of Pharos.",
]


def test_a_reply_that_keeps_to_the_passages_is_grounded() -> None:
    found = grounding("The lighthouse was built around 280 BC, under Ptolemy.", PASSAGES)
    assert found.score > 0.8
    assert found.ungrounded == ()


def test_a_sentence_that_stands_nowhere_is_told() -> None:
    found = grounding("It stood on Pharos island for long. Napoleon destroyed the marble bridge in 1799.", PASSAGES)
    assert found.ungrounded == ("Napoleon destroyed the marble bridge in 1799.",)
    assert found.score < 0.8


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=3))
def test_the_score_is_a_share_and_more_passages_never_lower_it(reply: str, passages: list[str]) -> None:
    found = grounding(reply, passages)
    assert 0 <= found.score <= 1
    assert grounding(reply, [*passages, reply]).score >= found.score
