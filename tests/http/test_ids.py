"""Ids are a codec: what is written is read back, and what is none of ours is refused by its parameter's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.ids import (
    MessageId,
    ResponseId,
    conversation_id,
    parse_conversation,
    parse_message,
    parse_response,
    session_of_key,
)
from services.errors import InvalidField

sessions = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
numbers = st.integers(min_value=1, max_value=10**18 - 1)


@given(sessions, numbers, st.booleans())
def test_every_id_is_read_back(session: str, number: int, is_reply: bool) -> None:
    response, message = ResponseId(session, number), MessageId(session, number, is_reply)
    assert parse_response(str(response), "id") == response
    assert parse_message(str(message), "id") == message
    assert parse_conversation(conversation_id(session), "id") == session


@given(st.text())
def test_anything_else_is_refused_by_the_parameters_name(text: str) -> None:
    for parse in (parse_response, parse_conversation, parse_message):
        with pytest.raises(InvalidField) as caught:
            parse(text, "some_id")
        assert caught.value.fields[0].field == "some_id"


@pytest.mark.parametrize("text", ["resp_S_1", "resp_s_0", "resp_s_01", "resp_s", "resp_-s_1", "resp_s_1\n", "conv_s"])
def test_near_misses_are_no_response_ids(text: str) -> None:
    with pytest.raises(InvalidField, match="expected resp_<session>_<turn>"):
        parse_response(text, "response_id")


@given(st.text(min_size=1, max_size=128), sessions, sessions)
def test_a_key_makes_one_session_for_each_tenant(key: str, tenant: str, other: str) -> None:
    made = session_of_key(tenant, key)
    assert made == session_of_key(tenant, key)
    assert parse_conversation(conversation_id(made), "id") == made
    assert tenant == other or made != session_of_key(other, key)
