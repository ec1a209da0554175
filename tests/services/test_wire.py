"""The text that spoils a request is found wherever it stands, and no bytes make the search fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.context.v1.context_service_pb2 import CreateSessionRequest, OpenTurnRequest

from services.rpc.wire import find_bad_text

OPEN_TURN: Any = OpenTurnRequest.DESCRIPTOR
CREATE: Any = CreateSessionRequest.DESCRIPTOR


def spoiled(request: OpenTurnRequest | CreateSessionRequest) -> bytes:
    return request.SerializeToString().replace(b"SPOIL", b"SPO\xffL")


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    find_bad_text(OPEN_TURN, data)


@given(st.integers(0, 5), st.text(st.characters(codec="utf-8", exclude_characters="SPOIL"), max_size=20))
def test_a_nested_repeated_text_is_named_with_its_index(before: int, text: str) -> None:
    request = OpenTurnRequest(request_id=text)
    for _ in range(before):
        request.messages.add(text=text)
    request.messages.add(text=text + "SPOIL")
    assert find_bad_text(OPEN_TURN, spoiled(request)) == (f"messages[{before}].text", len(text.encode()) + 3)


def test_a_map_is_named_too() -> None:
    request = CreateSessionRequest(session_id="s1")
    request.session.labels["a"] = "SPOIL"
    found = find_bad_text(CREATE, spoiled(request))
    assert found == ("session.labels[0].value", 3)


@pytest.mark.parametrize("cut", range(1, 12))
def test_bytes_that_end_early_are_no_bad_text(cut: int) -> None:
    data = OpenTurnRequest(request_id="r" * 12).SerializeToString()
    assert find_bad_text(OPEN_TURN, data[:-cut]) is None


def test_good_bytes_have_none() -> None:
    request = OpenTurnRequest(request_id="ü", window_tokens_max=7)
    assert find_bad_text(OPEN_TURN, request.SerializeToString()) is None
