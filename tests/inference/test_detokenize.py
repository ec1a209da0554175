"""Text comes out in whole characters, and ends before a stop string wherever it was cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from inference.detokenize import Detokenizer
from inference.tokenizer import Tokenizer

TEXT = st.text(st.sampled_from("ab <|>é🙂日\n"), max_size=40)


def spoken(detokenizer: Detokenizer, ids: list[int], sizes: list[int]) -> list[str]:
    """What comes of ids pushed in pieces of the given sizes, in turn."""
    parts: list[str] = []
    rest = iter(ids)
    for size in itertools.cycle(sizes):
        piece = list(itertools.islice(rest, size))
        if not piece:
            return [*parts, detokenizer.finish()]
        parts.append(detokenizer.push(piece))
    raise AssertionError("a cycle has no end")


def until_stop(text: str, stop: list[str]) -> str:
    found = [(text.find(each) + len(each), text.find(each)) for each in stop if each in text]
    return text[: min(found)[1]] if found else text


@given(TEXT, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_deltas_together_are_the_text(tokenizer: Tokenizer, text: str, sizes: list[int]) -> None:
    parts = spoken(Detokenizer(tokenizer), tokenizer.encode(text).tolist(), sizes)
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts)


@given(st.lists(st.integers(0, 49_151), max_size=30), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_ids_at_all_give_what_decoding_them_at_once_gives(
    tokenizer: Tokenizer, ids: list[int], sizes: list[int]
) -> None:
    assert "".join(spoken(Detokenizer(tokenizer), ids, sizes)) == tokenizer.decode(ids)


@given(
    TEXT,
    st.lists(st.text(st.sampled_from("ab <|🙂"), min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_nothing_of_a_stop_string_comes_out(tokenizer: Tokenizer, text: str, stop: list[str], sizes: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer, stop)
    assert "".join(spoken(detokenizer, tokenizer.encode(text).tolist(), sizes)) == until_stop(text, stop)
    assert detokenizer.stopped == any(each in text for each in stop)


def test_a_character_of_several_tokens_waits_for_its_last_one(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🏳️‍🌈").tolist()
    detokenizer = Detokenizer(tokenizer)
    first = detokenizer.push(ids[:1])
    assert len(ids) > 4
    assert first == ""
    assert detokenizer.push(ids[1:-1]) + detokenizer.push(ids[-1:]) == "🏳️‍🌈"


def test_what_may_be_a_stop_string_is_let_go_once_it_is_none(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, ["\nUser:"])
    assert detokenizer.push(tokenizer.encode("Yes.\nUse").tolist()) == "Yes."
    assert detokenizer.push(tokenizer.encode("ful").tolist()) == "\nUseful"
    assert not detokenizer.stopped
