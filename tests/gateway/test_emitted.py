"""What is handed on of a reply: all that went out, and its tokens where they mean the same to everybody."""

from __future__ import annotations

from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import message_pb2

from gateway.turn.emitted import Emitted

Delta = inference_service_pb2.GenerateResponse.Delta
ONE, OTHER = b"1" * 16, b"2" * 16


def test_ids_and_text_are_handed_on_under_their_tokenizer() -> None:
    emitted = Emitted()
    emitted.add(Delta(text="The ", token_ids=[5, 6]), ONE)
    emitted.add(Delta(token_ids=[7]), ONE)
    emitted.add(Delta(text="way", token_ids=[8]), ONE)
    assert emitted.message() == inference_service_pb2.Emitted(token_ids=[5, 6, 7, 8], tokenizer=ONE, text="The way")
    assert (emitted.text, emitted.tokens) == ("The way", 4)


def test_after_two_tokenizers_the_text_alone_is_handed_on() -> None:
    emitted = Emitted()
    emitted.add(Delta(text="The ", token_ids=[5]), ONE)
    emitted.add(Delta(text="narrow ", token_ids=[900]), OTHER)
    emitted.add(Delta(text="way", token_ids=[7]), ONE)
    assert emitted.message() == inference_service_pb2.Emitted(text="The narrow way")
    assert emitted.tokens == 3


def test_what_the_client_has_heard_decides_whether_there_is_a_beginning() -> None:
    emitted = Emitted()
    emitted.add(Delta(token_ids=[5]), ONE)
    assert not emitted.given_out
    emitted.add(Delta(token_ids=[6], logprobs=[message_pb2.TokenLogprob(token=b"\xf0", logprob=-1.0)]), ONE)
    assert emitted.given_out
