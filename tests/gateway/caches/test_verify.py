"""What makes two questions of them, though they are near; and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.caches.likeness import NAMES, features
from gateway.caches.verify import APART, APART_STRICTLY, verify, weights
from gateway.caches.words import question

NEAR = 0.97
QUESTION = st.text(st.sampled_from("abc ABC 123 not the how what my is can't?.,'ßΩ漢\n"), max_size=60) | st.lists(
    st.sampled_from(
        [
            "how",
            "what",
            "is",
            "the",
            "best",
            "way",
            "to",
            "learn",
            "Python",
            "Java",
            "not",
            "in",
            "2015",
            "2016",
            "my",
            "your",
            "card",
            "block?",
        ]
    ),
    max_size=12,
).map(" ".join)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("What changed in Python 3.11?", "What changed in Python 3.12?", "numbers"),
        ("Who won in 1998?", "Who won in 2002?", "numbers"),
        ("How many people live in Paris?", "How many people live in London?", "names"),
        ("How do I enable the alarm?", "How do I disable the alarm?", "opposites"),
        ("Is it safe to swim here?", "Is it not safe to swim here?", "negation"),
        ("How do I convert euros into dollars?", "How do I convert dollars into euros?", "order"),
        ("What does this picture show?", "What does this picture show?", "points_out"),
        ("Why does my card not work?", "Why does your card not work?", "person"),
        ("Can I cancel a transfer?", "Should I cancel a transfer?", "mood"),
        ("How long does a transfer take?", "Why does a transfer take long?", "kind_of_question"),
    ],
)
def test_what_makes_two_questions_of_them(one: str, other: str, apart: str) -> None:
    assert verify(one, other, NEAR).apart == apart
    assert verify(one, other, NEAR).score == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the best way to learn Python?", "How do I learn Python?"),
        ("Where can I buy two tickets?", "Where can I purchase 2 tickets?"),
        ("What's the capital of France?", "What is the capital of France?"),
        ("How do I lose weight without exercise?", "How can I lose weight without exercise?"),
    ],
)
def test_what_is_said_in_another_way_is_not_told_apart(one: str, other: str) -> None:
    assert verify(one, other, NEAR).apart == ""
    assert verify(one, other, NEAR, strictly=False).score > 0.5


def test_the_same_words_are_the_same_question_whatever_the_vectors_say() -> None:
    assert verify("What's the capital of France?", "what is the capital of France", 0.7).score == 1
    assert verify("What's shown in this picture?", "what is shown in this picture", 1.0).score == 0


@given(QUESTION, QUESTION, st.floats(0.5, 1.0), st.booleans())
def test_the_verdict_is_the_same_whichever_comes_first(one: str, other: str, cosine: float, strictly: bool) -> None:
    verdict = verify(one, other, cosine, strictly=strictly)
    assert verdict.score == pytest.approx(verify(other, one, cosine, strictly=strictly).score)
    assert bool(verdict.apart) == bool(verify(other, one, cosine, strictly=strictly).apart)
    assert 0 <= verdict.score <= 1


@given(QUESTION, QUESTION, st.floats(0.5, 1.0))
def test_strictly_is_never_laxer_about_what_tells_apart(one: str, other: str, cosine: float) -> None:
    if verify(one, other, cosine, strictly=False).apart:
        assert verify(one, other, cosine).apart


def test_every_feature_has_a_name_and_a_weight() -> None:
    found = features(question("How do I learn Python?"), question("How can I learn Java?"), NEAR)
    assert len(found) == len(NAMES) == len(set(NAMES)) == len(weights("strict")) == len(weights("intent"))
    assert set(APART) <= set(APART_STRICTLY) <= set(NAMES)
