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


def handed_over(tokenizer: Tokenizer, ids: list[int], stop: list[str], sizes: list[int], at: int) -> tuple[str, str]:
    """What one detokenizer sends of the first ids, and what a second one sends that takes over behind them."""
    first, second = Detokenizer(tokenizer, stop), Detokenizer(tokenizer, stop)
    sent = "".join(spoken(first, ids[:at], sizes)[:-1])
    owed = second.resume(ids[:at], sent)
    assert owed == "", "all that was due has gone out"
    return sent, "".join(spoken(second, ids[at:], sizes))


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
STOPS = st.lists(st.text(st.sampled_from("ab <|🙂"), min_size=1, max_size=5), max_size=4)


@given(TEXT, STOPS, SIZES, st.data())
def test_a_reply_may_be_taken_over_behind_any_of_its_tokens(
    tokenizer: Tokenizer, text: str, stop: list[str], sizes: list[int], data: st.DataObject
) -> None:
    ids = tokenizer.encode(text).tolist()
    sent, rest = handed_over(tokenizer, ids, stop, sizes, data.draw(st.integers(0, len(ids))))
    assert sent + rest == until_stop(text, stop)


@given(st.lists(st.integers(0, 49_151), max_size=30), SIZES, st.data())
def test_any_ids_at_all_may_be_taken_over(
    tokenizer: Tokenizer, ids: list[int], sizes: list[int], data: st.DataObject
) -> None:
    sent, rest = handed_over(tokenizer, ids, [], sizes, data.draw(st.integers(0, len(ids))))
    assert sent + rest == tokenizer.decode(ids)


@given(TEXT, STOPS, SIZES, st.data())
def test_what_had_not_gone_out_is_sent_by_who_takes_over(
    tokenizer: Tokenizer, text: str, stop: list[str], sizes: list[int], data: st.DataObject
) -> None:
    ids = tokenizer.encode(text).tolist()
    at = data.draw(st.integers(0, len(ids)))
    first, second = Detokenizer(tokenizer, stop), Detokenizer(tokenizer, stop)
    due = first.push(ids[:at])
    sent = due[: data.draw(st.integers(0, len(due)))]
    owed = second.resume(ids[:at], sent)
    assert owed is not None
    assert sent + owed + "".join(spoken(second, ids[at:], sizes)) == until_stop(text, stop)


@given(TEXT, STOPS, SIZES, st.data())
def test_a_reply_may_be_taken_over_by_its_text_alone(
    tokenizer: Tokenizer, text: str, stop: list[str], sizes: list[int], data: st.DataObject
) -> None:
    ids = tokenizer.encode(text).tolist()
    first, second = Detokenizer(tokenizer, stop), Detokenizer(tokenizer, stop)
    sent = first.push(ids[: data.draw(st.integers(0, len(ids)))])
    second.resume_text(sent)
    # Another tokenizer cuts the rest of the text into tokens of its own.
    rest = tokenizer.encode(text[len(sent) :]).tolist()
    assert sent + "".join(spoken(second, rest, sizes)) == until_stop(text, stop)


@given(TEXT, STOPS)
def test_a_reply_that_had_ended_is_not_ended_twice(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    """Its last text came with the end, what was held back included, and then its replica was lost."""
    ids = tokenizer.encode(text).tolist()
    first, second, by_text = (Detokenizer(tokenizer, stop) for _ in range(3))
    sent = first.push(ids) + first.finish()
    assert second.resume(ids, sent) == ""
    by_text.resume_text(sent)
    assert second.finish() == by_text.finish() == ""


def test_a_held_stop_string_that_went_out_at_the_end_is_not_sent_again_if_there_is_more(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, ["\nUser:"])
    assert detokenizer.resume(tokenizer.encode("Yes.\nUse").tolist(), "Yes.\nUse") == ""
    assert detokenizer.push(tokenizer.encode("ful").tolist()) == "ful"


def test_ids_that_say_something_else_than_what_went_out_are_told(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the narrow way").tolist()
    for sent in ("the wide", "the narrow way on", "x"):
        assert Detokenizer(tokenizer).resume(ids, sent) is None


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
