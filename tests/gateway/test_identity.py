"""Two requests are the same exactly if they ask for the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import message_pb2, session_service_pb2

from gateway.identity import new_id, turn_digest

messages = st.lists(
    st.builds(
        message_pb2.Message,
        role=st.sampled_from([message_pb2.ROLE_USER, message_pb2.ROLE_SYSTEM]),
        text=st.text(max_size=8),
        author=st.text(max_size=2),
        pinned=st.booleans(),
    ),
    max_size=3,
)
params = st.none() | st.builds(
    message_pb2.SamplingParams, max_output_tokens=st.integers(1, 9), stop=st.lists(st.text(max_size=2), max_size=2)
)
requests = st.builds(
    session_service_pb2.RunTurnRequest, messages=messages, params=params, model=st.sampled_from(["", "m"])
)
after_turns = st.none() | st.integers(0, 3)


@given(requests, after_turns, requests, after_turns)
def test_digests_are_equal_exactly_if_requests_are(
    one: session_service_pb2.RunTurnRequest,
    after_one: int | None,
    two: session_service_pb2.RunTurnRequest,
    after_two: int | None,
) -> None:
    same = one == two and after_one == after_two
    assert (turn_digest(one, after_one) == turn_digest(two, after_two)) == same


@given(requests)
def test_session_and_request_id_are_not_in_the_digest(request: session_service_pb2.RunTurnRequest) -> None:
    other = session_service_pb2.RunTurnRequest()
    other.CopyFrom(request)
    other.session, other.request_id = "sessions/other", "other"
    assert turn_digest(request, None) == turn_digest(other, None)


def test_new_ids_are_valid_session_ids() -> None:
    assert new_id(lambda count: bytes(range(count)), "session") == "session-000102030405060708090a0b"
