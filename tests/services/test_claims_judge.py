"""Claims held against what a reply was made from: supported, contradicted, or not there, whatever its length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.claims.judge import PASSAGES_COUNT_MAX, Claims, Verdict

SOURCE = [
    "The lighthouse of Alexandria was built under Ptolemy II around 280 BC. It stood on the island of Pharos.",
    "Its light was seen from 50 km away. An earthquake damaged it in 1323.",
    "The keeper Ahmed never closed the harbour gate at night.",
]
WORDS = st.sampled_from(
    ["amber", "boat", "canal", "delta", "ember", "ferry", "gravel", "harbor", "island", "jetty", "kelp", "lagoon"]
)


def judged(reply: str, texts: list[str], count_max: int = 100) -> list[Verdict]:
    """The verdicts on a reply's claims."""
    claims = Claims(reply, count_max)
    for sequence, text in enumerate(texts, start=1):
        claims.read(text, sequence)
    return [each.verdict for each in claims.judged()]


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("The lighthouse of Alexandria was built around 280 BC.", Verdict.SUPPORTED),
        ("Built under Ptolemy II, the lighthouse stood on Pharos.", Verdict.SUPPORTED),
        ("The lighthouse of Alexandria was built around 180 BC.", Verdict.CONTRADICTED),
        ("An earthquake damaged it in 1923.", Verdict.CONTRADICTED),
        ("The keeper Ahmed closed the harbour gate at night.", Verdict.CONTRADICTED),
        ("The keeper Ahmed never closed the harbour gate.", Verdict.SUPPORTED),
        ("Napoleon visited the marble bridge in Vienna.", Verdict.UNSUPPORTED),
    ],
)
def test_a_claim_is_judged_by_the_passages_nearest_to_it(claim: str, verdict: Verdict) -> None:
    assert judged(claim, SOURCE) == [verdict]


def test_questions_and_phrases_claim_nothing() -> None:
    assert judged("Was the lighthouse of Alexandria built in 280 BC? Sure. Yes, it was.", SOURCE) == []


def test_a_claim_says_where_it_is_and_where_it_stands() -> None:
    reply = "Well. An earthquake damaged it in 1323. The gate was open."
    claims = Claims(reply, 1)
    for sequence, text in enumerate(SOURCE, start=1):
        claims.read(text, sequence)
    [one] = claims.judged()
    assert reply[slice(*one.span)] == "An earthquake damaged it in 1323."
    assert [passage.sequence for passage in one.passages][:1] == [2]
    assert one.score == 1.0


@given(st.lists(st.lists(WORDS, min_size=3, max_size=6, unique=True), min_size=1, max_size=6), st.integers(1, 4))
def test_what_is_repeated_word_for_word_is_supported_and_bounded(said: list[list[str]], count_max: int) -> None:
    reply = " ".join(f"The {' '.join(words)}." for words in said)
    claims = Claims(reply, count_max)
    claims.read("Nothing to see. " + reply, 1)
    found = claims.judged()
    assert len(found) == min(count_max, len(said)) == len(said) - claims.more
    assert {each.verdict for each in found} == {Verdict.SUPPORTED}
    assert all(len(each.passages) <= PASSAGES_COUNT_MAX for each in found)


@given(st.text(max_size=120), st.lists(st.text(max_size=120), max_size=3))
def test_any_text_has_verdicts_in_order(reply: str, texts: list[str]) -> None:
    claims = Claims(reply, 5)
    for text in texts:
        claims.read(text, 1)
    spans = [each.span for each in claims.judged()]
    assert spans == sorted(spans)
    assert all(0 <= each.score <= 1 for each in claims.judged())
