"""Texts for the compressor's tests: made up by hypothesis, or from a seed."""

from __future__ import annotations

import random

from hypothesis import strategies as st

_NAMES = ("Caroline", "Melanie", "Osaka", "Thames", "Ibn Sina", "NATO")
_WORDS = (
    "the",
    "a",
    "of",
    "in",
    "harbour",
    "lamp",
    "boat",
    "painted",
    "quietly",
    "42",
    "1969",
    "met",
    "left",
    "found",
    "letter",
)

# Sentences of a few shared words, so that coverage has something to overlap on.
sentences = st.lists(
    st.builds(
        lambda words, end: " ".join(words).capitalize() + end,
        st.lists(st.sampled_from([*_WORDS, *_NAMES]), min_size=1, max_size=8),
        st.sampled_from([".", "!", "?", "。"]),
    ),
    min_size=1,
    max_size=12,
)

# Anything at all, and text that looks like text.
texts = st.one_of(
    st.text(max_size=300),
    st.lists(sentences.map(" ".join), max_size=4).map("\n\n".join),
)


def story(sentence_count: int, seed: int = 1) -> str:
    """A long text: paragraphs of sentences, with names and numbers in some of them."""
    chance = random.Random(seed)
    lines = []
    for number in range(sentence_count):
        words = chance.choices(_WORDS, k=chance.randint(4, 12))
        if chance.random() < 0.3:
            words.insert(2, f"{chance.choice(_NAMES)} {chance.randint(1, 10**6)}")
        lines.append(" ".join(words).capitalize() + (".\n\n" if number % 7 == 6 else ". "))
    return "".join(lines)
