"""Whatever a turn says and however it ends, its events are a stream that OpenAI's clients understand."""

from __future__ import annotations

import json
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import turn_pb2
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from gateway.http.events import Event, ResponseEvents, encode
from gateway.http.ids import ResponseId
from gateway.http.objects import ResponseError
from gateway.http.render import Echo, response

NAME = ResponseId("s", 3)
OPENING = ["response.created", "response.in_progress"]
ITEM = ["response.output_item.added", "response.content_part.added"]
CLOSING = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
DELTA = "response.output_text.delta"
texts = st.lists(st.text(max_size=20), max_size=8)
_SDK: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}


def turn(state: turn_pb2.Turn.State.ValueType, text: str = "", **fields: Any) -> turn_pb2.Turn:
    return turn_pb2.Turn(name="sessions/s/turns/3", number=3, state=state, output_text=text, model="m", **fields)


def decode(event: Event) -> Any:
    """As a client reads it off the wire; the SDK's own types must accept it."""
    number, head, data, end, nothing = encode(event).decode().split("\n")
    assert (number, head) == (f"id: {event['sequence_number']}", f"event: {event['type']}")
    assert (end, nothing) == ("", "")
    payload = json.loads(data.removeprefix("data: "))
    _SDK[payload["type"]].model_validate(payload)
    return payload


@given(texts, st.integers(min_value=0, max_value=20), st.booleans())
def test_a_stream_tells_the_whole_answer_once(deltas: list[str], unsent: int, is_cut: bool) -> None:
    text = "".join(deltas) + "x" * unsent
    reason = turn_pb2.FINISH_REASON_LENGTH if is_cut else turn_pb2.FINISH_REASON_STOP
    told = ResponseEvents(NAME)
    events = list(told.begun(response(NAME, turn(turn_pb2.Turn.STATE_OPEN), Echo())))
    for delta in deltas:
        events += told.delta(delta)
    done = response(NAME, turn(turn_pb2.Turn.STATE_DONE, text, finish_reason=reason), Echo())
    events += told.done(done, text)
    seen = [decode(event) for event in events]

    assert [each["sequence_number"] for each in seen] == list(range(len(seen)))
    kinds = [each["type"] for each in seen]
    deltas_count = kinds.count(DELTA)
    assert kinds == [
        *OPENING,
        *ITEM,
        *[DELTA] * deltas_count,
        *CLOSING,
        "response.incomplete" if is_cut else "response.completed",
    ]
    assert "".join(each["delta"] for each in seen if each["type"] == DELTA) == text
    assert {each["item_id"] for each in seen if "item_id" in each} == {"msg_s_r3"}
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == text
    assert seen[-2]["item"] == seen[-1]["response"]["output"][0]


@given(texts)
def test_a_failure_ends_the_stream_wherever_it_strikes(deltas: list[str]) -> None:
    told = ResponseEvents(NAME)
    begun = response(NAME, turn(turn_pb2.Turn.STATE_OPEN), Echo())
    events = list(told.begun(begun))
    for delta in deltas:
        events += told.delta(delta)
    events += told.failed(begun, ResponseError("engine_failed", "it broke"))
    seen = [json.loads(encode(event).decode().split("data: ", 1)[1]) for event in events]
    assert [each["sequence_number"] for each in seen] == list(range(len(seen)))
    assert (seen[-1]["type"], seen[-1]["response"]["status"]) == ("response.failed", "failed")
    assert seen[-1]["response"]["error"] == {"code": "engine_failed", "message": "it broke"}


def test_text_that_was_never_streamed_comes_as_one_delta() -> None:
    told = ResponseEvents(NAME)
    done = response(NAME, turn(turn_pb2.Turn.STATE_DONE, "all of it"), Echo())
    deltas = [event["delta"] for event in told.done(done, "all of it") if event["type"] == DELTA]
    assert deltas == ["all of it"]
