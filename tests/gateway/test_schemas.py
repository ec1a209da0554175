"""Schemas are refused by what is wrong with them, and a reply is held against the one that it was asked for."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from gateway import schemas
from gateway.turn.calls import Reply
from gateway.turn.form import check_reply, check_window
from inference.engines.scripted_form import instance, scripted_form
from services.errors import InvalidField, IsthmusError
from services.tool_calls import call

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
STOP, LENGTH = turn_pb2.FINISH_REASON_STOP, turn_pb2.FINISH_REASON_LENGTH


def objects(under: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Strict objects of these properties."""
    return st.dictionaries(st.sampled_from(["a", "b", "pattern", "$ref"]), under, max_size=3).map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    )


plain = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.lists(st.integers() | st.text(), min_size=1, max_size=3).map(lambda each: {"enum": each}),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, *[st.integers(0, 9)] * 2
    ),
)
any_schema = st.recursive(
    plain,
    lambda under: st.one_of(
        objects(under),
        under.map(lambda each: {"type": "array", "items": each, "minItems": 2}),
        st.lists(under, min_size=1, max_size=3).map(lambda each: {"anyOf": each}),
    ),
    max_leaves=8,
)


@given(any_schema)
def test_the_scripted_engine_says_what_fits(schema: Any) -> None:
    text = json.dumps(schema)
    assert not schemas.misfit(json.dumps(instance(text)), text)


@given(objects(any_schema), st.booleans())
def test_a_strict_schema_is_taken_and_a_lax_one_is_not(schema: Any, is_open: bool) -> None:
    if is_open:
        schema = {**schema, "additionalProperties": True}
    assert schemas.is_strict(json.dumps(schema).encode()) is not is_open


@pytest.mark.parametrize(
    ("schema", "strict", "says"),
    [
        ([], False, "is no object"),
        ({"type": "text"}, False, "at $.type"),
        ({"$ref": "https://example.org/s"}, False, "expected a reference within the schema"),
        ({"$ref": "#/$defs/a"}, False, "which is not in it"),
        ({"anyOf": [PERSON]}, True, "root must be an object"),
        ({**PERSON, "required": ["name"]}, True, "missing: age"),
        ({**PERSON, "additionalProperties": {}}, True, "'additionalProperties' must be false"),
        ({**PERSON, "properties": {"name": {"type": "object"}}}, True, "false at /properties/name"),
        ({**PERSON, "allOf": [{}]}, True, "have no 'allOf'"),
        ({"title": "x" * schemas.BYTES_MAX}, False, "at most 65536"),
    ],
)
def test_a_schema_is_refused_by_what_is_wrong(schema: Any, strict: bool, says: str) -> None:
    with pytest.raises(InvalidField) as caught:
        schemas.checked(json.dumps(schema).encode(), "text.format.schema", strict=strict)
    assert caught.value.fields[0].field == "text.format.schema"
    assert says in caught.value.message


def test_a_schema_that_nests_without_end_is_refused() -> None:
    nested = b'{"items":' * 5_000 + b"{}" + b"}" * 5_000
    with pytest.raises(InvalidField):
        schemas.checked(nested, "schema", strict=False)


def test_a_reply_that_takes_too_long_to_check_is_not_waited_for() -> None:
    branches = json.dumps({"anyOf": [{"properties": {"a": {"$ref": "#"}}, "required": ["a"]}] * 2})
    reply = '{"a":' * 60 + "{}" + "}" * 60
    began = time.process_time()
    assert "cannot be checked" in schemas.misfit(reply, branches)
    assert time.process_time() - began < 30
    assert not schemas.misfit('"' + "a" * 40 + '!"', json.dumps({"pattern": "^(a+)+$"}))


def reply(text: str, reason: turn_pb2.FinishReason.ValueType = STOP) -> Reply:
    return Reply(text, reason, ())


def test_a_reply_has_its_form_or_says_why_not() -> None:
    form = message_pb2.SamplingParams(structured_output=message_pb2.StructuredOutput(json_schema=json.dumps(PERSON)))
    check_reply(form, reply('{"name": "Ada", "age": 36}'))
    # What was cut is told as cut.
    check_reply(form, reply('{"name": "Ad', LENGTH))
    for text, says in (('{"name": "Ad', "is no JSON"), ('{"name": "Ada"}', "'age' is a required property")):
        with pytest.raises(IsthmusError) as caught:
            check_reply(form, reply(text))
        assert caught.value.reason == errors_pb2.ERROR_REASON_OUTPUT_INVALID
        assert says in caught.value.message


def test_a_call_has_the_arguments_of_a_strict_function() -> None:
    function = message_pb2.ToolUse.Function(name="greet", parameters=json.dumps(PERSON), strict=True)
    tools = message_pb2.ToolUse(functions=[function], choice=message_pb2.ToolUse.CHOICE_REQUIRED)
    params = message_pb2.SamplingParams(tools=tools)
    said = scripted_form(None, tools)
    assert said is not None
    check_reply(params, reply(said))
    for text, says in ((call("greet", "{}"), "greet"), ("I would rather not.", "calls no function")):
        with pytest.raises(IsthmusError, match=says):
            check_reply(params, reply(text))
    function.strict = False
    lax = message_pb2.SamplingParams(tools=message_pb2.ToolUse(functions=[function]))
    check_reply(lax, reply(call("greet", "{}")))
    check_reply(lax, reply("I would rather not."))


@pytest.mark.parametrize(
    ("report", "fits"),
    [
        (turn_pb2.WindowReport(item_count=3, verbatim_count=3), True),
        (turn_pb2.WindowReport(item_count=3, verbatim_count=2, summary_count=1), False),
        (turn_pb2.WindowReport(left_out=[turn_pb2.LeftOut(tokens=3)], left_out_tokens=3), False),
    ],
)
def test_without_truncation_all_of_the_session_is_in_the_window(report: turn_pb2.WindowReport, fits: bool) -> None:
    request = session_service_pb2.RunTurnRequest()
    check_window(request, report)
    request.truncation = session_service_pb2.RunTurnRequest.TRUNCATION_DISABLED
    if fits:
        check_window(request, report)
        return
    with pytest.raises(IsthmusError) as caught:
        check_window(request, report)
    assert caught.value.reason == errors_pb2.ERROR_REASON_WINDOW_OVERFLOW
