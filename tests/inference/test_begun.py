"""What stands for the beginning of a reply that another replica has made."""

from __future__ import annotations

from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.session.v1 import turn_pb2

from inference.begun import Begun, take_over
from inference.tokenizer import Tokenizer

STOP, LENGTH = turn_pb2.FINISH_REASON_STOP, turn_pb2.FINISH_REASON_LENGTH
TEXT = "The narrow way, and a 🙂 on it"


def begun(tokenizer: Tokenizer, ids: list[int], text: str, *stop: str) -> Begun:
    return take_over(contract.Emitted(token_ids=ids, text=text), tokenizer, stop)


def test_nothing_has_begun(tokenizer: Tokenizer) -> None:
    fresh = begun(tokenizer, [], "")
    assert (fresh.ids.tolist(), fresh.tokens, fresh.text, fresh.owed) == ([], 0, "", "")
    assert fresh.finish_reason(1) == turn_pb2.FINISH_REASON_UNSPECIFIED


def test_ids_count_where_they_give_the_text(tokenizer: Tokenizer) -> None:
    # Not as the tokenizer would have it, which is what a model may well say.
    ids: list[int] = [token for character in TEXT for token in tokenizer.encode(character).tolist()]
    taken = begun(tokenizer, ids, TEXT)
    assert taken.ids.tolist() == ids
    assert (taken.tokens, taken.owed) == (len(ids), "")
    assert taken.detokenizer.push(tokenizer.encode(" again").tolist()) == " again"


def test_the_text_counts_where_the_ids_do_not_give_it(tokenizer: Tokenizer) -> None:
    for said in ("", "something else"):
        taken = begun(tokenizer, tokenizer.encode(said).tolist(), TEXT)
        assert tokenizer.decode(taken.ids) == taken.text == TEXT
        assert taken.owed == ""


def test_a_character_that_is_not_whole_goes_on(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🏳️‍🌈").tolist()
    taken = begun(tokenizer, ids[:1], "")
    assert taken.detokenizer.push(ids[1:]) == "🏳️‍🌈"


def test_a_reply_of_full_length_or_with_a_stop_string_has_ended(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT).tolist()
    assert begun(tokenizer, ids, TEXT).finish_reason(len(ids)) == LENGTH
    assert begun(tokenizer, ids, TEXT).finish_reason(len(ids) + 1) == turn_pb2.FINISH_REASON_UNSPECIFIED
    assert begun(tokenizer, ids, "The narrow way", ",").finish_reason(len(ids)) == STOP
    assert begun(tokenizer, [], TEXT, ", and").finish_reason(1_000) == STOP


def test_a_length_was_reached_also_where_its_text_ended_in_half_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("way 🏳️‍🌈").tolist()[:-1]
    taken = begun(tokenizer, ids, tokenizer.decode(ids))
    assert tokenizer.decode(ids).endswith("\ufffd")
    assert taken.finish_reason(len(ids)) == LENGTH
    assert taken.owed + taken.detokenizer.finish() == ""
