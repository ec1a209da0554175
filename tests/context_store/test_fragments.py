"""Cutting texts: lossless, bounded, at the best place, and the same however the text came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import fragment_pb2, message_pb2

from context_store.log.fragments import (
    CorruptBodyError,
    Origin,
    drafts,
    estimate_tokens,
    pack,
    split,
    unpack,
    unpack_text,
)
from services.cuts import cut

BOUND = 64

texts = st.text(alphabet=st.sampled_from("ab .!?\n\téß世界🦋"), max_size=600)


@given(texts)
def test_pieces_are_lossless_and_bounded(text: str) -> None:
    pieces = list(split(text, BOUND))
    assert "".join(piece for piece, _ in pieces) == text
    for piece, size in pieces:
        assert size == len(piece.encode()) <= BOUND


@given(texts, st.lists(st.integers(1, 200), min_size=1))
def test_cuts_do_not_depend_on_chunks(text: str, chunks: list[int]) -> None:
    data = text.encode()
    rest = bytearray()
    pieces: list[bytes] = []
    position, turn = 0, 0
    while position < len(data):
        step = chunks[turn % len(chunks)]
        rest += data[position : position + step]
        position, turn = position + step, turn + 1
        while len(rest) > BOUND:
            size = cut(rest, BOUND)
            pieces.append(bytes(rest[:size]))
            del rest[:size]
    pieces.append(bytes(rest))
    assert [piece.decode() for piece in pieces] == [piece for piece, _ in split(text, BOUND)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a" * 40 + "\n\n" + "b" * 10 + ". " + "c" * 40, "a" * 40 + "\n\n"),
        ("a" * 40 + ". " + "b" * 10 + " " + "c" * 40, "a" * 40 + ". "),
        ("a" * 40 + " " + "b" * 60, "a" * 40 + " "),
        ("世" * 30, "世" * 21),
    ],
    ids=["paragraph", "sentence", "word", "character"],
)
def test_the_cut_is_at_the_best_place(text: str, first: str) -> None:
    assert next(split(text, BOUND))[0] == first


def test_parts_are_numbered_and_have_their_own_digest() -> None:
    origin = Origin(fragment_pb2.FRAGMENT_KIND_MESSAGE, message_pb2.ROLE_USER)
    pieces = drafts("a" * 150, origin, BOUND)
    assert [piece.part for piece in pieces] == [0, 1, 2]
    assert pieces[0].text == pieces[1].text
    assert pieces[0].digest != pieces[1].digest
    assert drafts("", origin, BOUND) == []


def test_estimates_round_up() -> None:
    assert [estimate_tokens(size) for size in (0, 1, 3, 4)] == [8, 9, 9, 10]


@given(texts)
def test_a_body_survives_packing(text: str) -> None:
    assert unpack_text(pack(text.encode())) == text


@pytest.mark.parametrize("body", [b"", b"rubbish", pack(b"long enough to be cut in half")[:-4], pack(b"\xff\xfe")])
def test_a_broken_body_says_so(body: bytes) -> None:
    with pytest.raises(CorruptBodyError):
        unpack_text(body)
    assert unpack(pack(b"\xff")) == b"\xff"
