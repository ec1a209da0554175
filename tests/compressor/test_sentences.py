from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.sentences import SentenceSplitter
from tests.compressor.texts import texts


def split(text: str, chars_max: int = 512) -> list[str]:
    return [text[start:end] for start, end in SentenceSplitter(chars_max)(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith paid 3.50 for it. Then he left.", ["Dr. Smith paid 3.50 for it.", "Then he left."]),
        ("A heading\r\nIts text goes on. And on", ["A heading", "Its text goes on.", "And on"]),
        ("  \n\t\n", []),
        ("今日は晴れ。明日は雨。", ["今日は晴れ。", "明日は雨。"]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


@given(texts, st.integers(1, 40))
def test_spans_are_in_order_and_leave_out_nothing_but_blanks(text: str, chars_max: int) -> None:
    spans = list(SentenceSplitter(chars_max)(text))

    position = 0
    for start, end in spans:
        assert not text[position:start].strip()
        assert start < end <= start + chars_max
        assert text[start:end] == text[start:end].strip()
        position = end
    assert not text[position:].strip()


def test_what_is_too_long_is_cut_between_words() -> None:
    pieces = split("seven words " * 40, 100)

    assert len(pieces) == 5
    assert all(re.fullmatch(r"(seven|words)( (seven|words))*", piece) for piece in pieces)
