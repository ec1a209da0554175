"""Passages: all of a text, in bounds, at the same places however it comes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from services.passages import Passage, passages

texts = st.lists(
    st.sampled_from(["a ", "word. ", "\n\n", "世界。", "x" * 97, "🦋 ", "no-end", "\n"]), max_size=400
).map("".join)
tokens = st.integers(100, 160)


def cut(pieces: Sequence[str], tokens_max: int, overlap: int) -> list[Passage]:
    return list(passages(enumerate(pieces, 1), tokens_max, overlap))


def pieces_of(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@settings(deadline=None)
@given(texts, tokens, st.data())
def test_a_text_is_covered_in_bounds_and_overlaps_as_asked(text: str, tokens_max: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tokens_max // 2))
    found, whole = cut([text] if text else [], tokens_max, overlap), text.encode()
    end = 0
    for passage in found:
        start, size = passage.start_byte, len(passage.text.encode())
        assert whole[start : start + size] == passage.text.encode()
        assert 1 <= size <= 3 * tokens_max
        assert end - 3 * overlap <= start <= end < start + size
        end = start + size
    assert end == len(whole)
    assert len(found) <= 1 + 4 * len(whole) / (3 * tokens_max)


@settings(deadline=None)
@given(texts, tokens, st.integers(1, 700))
def test_passages_do_not_depend_on_fragments(text: str, tokens_max: int, size: int) -> None:
    whole, parts = cut([text], tokens_max, tokens_max // 2), pieces_of(text, size)
    found = cut(parts, tokens_max, tokens_max // 2)
    assert [(one.start_byte, one.text) for one in found] == [(one.start_byte, one.text) for one in whole if text]
    for passage in found:
        within = "".join(parts[passage.first_sequence - 1 : passage.last_sequence])
        assert within.encode()[passage.lead_bytes :].startswith(passage.text.encode())


def test_a_passage_ends_and_begins_with_sentences() -> None:
    text = "This is a sentence of some length. " * 40
    found = cut([text], 100, 50)
    assert len(found) > 2
    assert all(passage.text.startswith("This") and passage.text.endswith(". ") for passage in found)
