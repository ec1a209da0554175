"""Rubbish in a body is refused by the name of its place, with what was expected there."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import message_pb2

from gateway.bounds import MESSAGES_BYTES_MAX
from gateway.http.body import decode
from gateway.http.errors import Refusal
from gateway.http.messages import TEXT_BYTES_MAX, labels, turn_messages
from gateway.http.shapes import HARMLESS, CreateItems, CreateResponse
from services.errors import InvalidField


def create(**fields: Any) -> CreateResponse:
    return decode(json.dumps({"input": "hello", **fields}).encode(), CreateResponse)


def refused(body: bytes | dict[str, Any], shape: type = CreateResponse) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode(body if isinstance(body, bytes) else json.dumps(body).encode(), shape)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("body", "code", "param", "says"),
    [
        (b"", "invalid_json", None, "expected one JSON object"),
        (b'{"input":"a"', "invalid_json", None, "truncated"),
        (b'{"input":"a"} x', "invalid_json", None, "trailing"),
        (b'{"input":"\\ud800"}', "invalid_json", None, "not JSON"),
        (b'{"input":"\xff\xfe"}', "invalid_utf8", None, "byte 10 "),
        (b"\xff", "invalid_utf8", None, "byte 0 "),
        (b"[]", "invalid_type", None, "expected `object`, got `array`"),
        (b'{"input":3}', "invalid_type", "input", "got `int`"),
        (b"{}", "missing_required_parameter", "input", "is missing"),
        (b'{"input":[]}', "invalid_value", "input", "length >= 1"),
        (b'{"input":"a","tempreature":1}', "unknown_parameter", "tempreature", "unknown parameter"),
        (b'{"input":"a","temperature":"hot"}', "invalid_type", "temperature", "got `str`"),
        (b'{"input":"a","temperature":3}', "invalid_value", "temperature", "<= 2"),
        (b'{"input":"a","max_output_tokens":0}', "invalid_value", "max_output_tokens", ">= 1"),
        (b'{"input":"a","truncation":"some"}', "invalid_value", "truncation", "auto or disabled"),
        (b'{"input":"a","metadata":{"k":1}}', "invalid_type", "metadata[...]", "got `int`"),
        (b'{"input":[{"role":"user"}]}', "missing_required_parameter", "input[0].content", "items are messages"),
        (b'{"input":[{"role":"boss","content":"a"}]}', "invalid_value", "input[0].role", "system, developer, user"),
        (
            b'{"input":[{"type":"reasoning","summary":[]}]}',
            "unsupported_parameter",
            "input[0].type",
            "items are messages",
        ),
        (
            b'{"input":[{"call_id":"c","role":"user","content":"a"}]}',
            "unknown_parameter",
            "input[0].call_id",
            "items are messages",
        ),
        (
            b'{"input":[{"role":"user","content":[{"type":"input_image","image_url":"u"}]}]}',
            "unsupported_parameter",
            "input[0].content[0].type",
            "parts are texts",
        ),
        (b'{"input":"a","tools":[{"type":"function"}]}', "missing_required_parameter", "tools[0].name", "your own"),
        (b'{"input":"a","tools":[{"type":"web_search"}]}', "unsupported_parameter", "tools[0].type", "'function'"),
        (b'{"input":"a","top_logprobs":1}', "unsupported_parameter", "top_logprobs", "null, 0"),
        (b'{"input":"a","top_logprobs":false}', "unsupported_parameter", "top_logprobs", "null, 0"),
        (b'{"input":"a","include":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None, "nests"),
    ],
)
def test_rubbish_is_refused_by_its_place(body: bytes, code: str, param: str | None, says: str) -> None:
    refusal = refused(body)
    assert (refusal.code, refusal.param) == (code, param)
    assert says in refusal.message


def test_items_of_a_conversation_are_refused_by_their_place() -> None:
    assert refused({"items": [{"role": "user", "content": [{"type": "input_text"}]}]}, CreateItems).param == (
        "items[0].content[0].text"
    )
    assert "length <= 20" in refused({"items": [{"role": "user", "content": "a"}] * 21}, CreateItems).message


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in HARMLESS.items() for value in values])
def test_parameters_at_their_harmless_values_go_through(name: str, value: object) -> None:
    assert create(**{name: value}).input == "hello"
    assert create(**{name: None}).input == "hello"


def test_nulls_inside_an_unsupported_object_change_nothing() -> None:
    assert create(reasoning={"effort": None, "summary": None}).input == "hello"
    assert refused({"input": "a", "reasoning": {"effort": "high"}}).param == "reasoning"


@given(st.binary(max_size=200))
def test_no_bytes_are_answered_with_anything_but_a_refusal(body: bytes) -> None:
    # Any other exception fails the test; a JSON object with `input` would be no rubbish.
    with contextlib.suppress(Refusal):
        assert isinstance(decode(body, CreateResponse), CreateResponse)


def test_input_becomes_messages_with_instructions_first() -> None:
    assistant = {
        "type": "message",
        "id": "msg_s_r1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "one", "annotations": [], "logprobs": []}],
    }
    parts = [{"type": "input_text", "text": "two"}, {"type": "input_text", "text": "three"}]
    items = [assistant, {"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    made = turn_messages(create(input=items, instructions="be kind"))
    assert [(each.role, each.text) for each in made] == [
        (message_pb2.ROLE_SYSTEM, "be kind"),
        (message_pb2.ROLE_ASSISTANT, "one"),
        (message_pb2.ROLE_SYSTEM, "be brief"),
        (message_pb2.ROLE_USER, "two\nthree"),
    ]


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"input": ""}, "input", "is empty"),
        ({"input": "x" * 10_000_000}, "input", f"expected at most {TEXT_BYTES_MAX}; stream longer texts"),
        ({"instructions": "é" * (1 << 20)}, "instructions", f"is {2 << 20} bytes"),
        ({"input": [{"role": "user", "content": "x" * (TEXT_BYTES_MAX + 1)}]}, "input[0].content", "isthmus ingest"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x" * (TEXT_BYTES_MAX + 1)}]}]},
            "input[0].content[0].text",
            "isthmus ingest",
        ),
        (
            {"input": [{"role": "user", "content": "x" * TEXT_BYTES_MAX}] * 2},
            "input",
            f"expected at most {MESSAGES_BYTES_MAX}",
        ),
        ({"input": [{"role": "user", "content": "a"}] * 256, "instructions": "b"}, "input", "makes 257 messages"),
    ],
)
def test_texts_beyond_the_contract_are_refused_by_their_path(fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidField) as caught:
        turn_messages(create(**fields))
    assert caught.value.fields[0].field == field
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({str(number): "" for number in range(17)}, "metadata"),
        ({"": "v"}, "metadata."),
        ({"isthmus.origin": "responses"}, "metadata.isthmus.origin"),
        ({"k": "v" * 513}, "metadata.k"),
    ],
)
def test_metadata_is_bounded(metadata: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        labels(metadata)
    assert caught.value.fields[0].field == field
