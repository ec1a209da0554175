"""A chat's body: what is taken of it, what its messages come to, and what is refused by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import message_pb2

from gateway.bounds import MESSAGES_BYTES_MAX
from gateway.http.body import decode
from gateway.http.chat.completions import chat_request
from gateway.http.chat.history import History, history
from gateway.http.chat.params import sampling, told_by_name
from gateway.http.chat.shapes import UNSUPPORTED, CreateChatCompletion
from gateway.http.errors import Refusal
from gateway.http.messages import TEXT_BYTES_MAX
from gateway.http.shapes import MESSAGES_COUNT_MAX
from services.errors import InvalidField, IsthmusError

SYSTEM, USER, ASSISTANT = message_pb2.ROLE_SYSTEM, message_pb2.ROLE_USER, message_pb2.ROLE_ASSISTANT
HELLO = [{"role": "user", "content": "hello"}]
said = st.builds(
    lambda role, content, name: {"role": role, "content": content, **({"name": name} if name else {})},
    st.sampled_from(["system", "user", "assistant"]),
    st.text(min_size=1, max_size=8),
    st.text(max_size=2),
)
chats = st.lists(said, min_size=1, max_size=6)


def create(messages: Any = None, **fields: Any) -> CreateChatCompletion:
    body = json.dumps({"messages": HELLO if messages is None else messages, **fields}).encode()
    return decode(body, CreateChatCompletion)


def read(messages: Any, **fields: Any) -> History:
    return history(create(messages, **fields))


def taken(body: dict[str, Any]) -> None:
    request = decode(json.dumps(body).encode(), CreateChatCompletion)
    sampling(request)
    chat_request(request, "").history.batches(0)


def refused(body: dict[str, Any]) -> tuple[str, str | None, str]:
    """Code, parameter and message of what is wrong with a body."""
    with pytest.raises((Refusal, InvalidField)) as caught:
        taken({"messages": HELLO, **body})
    error = caught.value
    if isinstance(error, Refusal):
        return error.code, error.param, error.message
    assert isinstance(error, InvalidField)
    return "invalid_field", error.fields[0].field, error.message


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello", **fields}]}


@pytest.mark.parametrize(
    ("body", "code", "param", "says"),
    [
        ({"messages": []}, "invalid_value", "messages", "length >= 1"),
        ({"messages": "hello"}, "invalid_type", "messages", "got `str`"),
        (message(role="function"), "invalid_value", "messages[0].role", "system, developer, user, assistant or tool"),
        (message(role="tool"), "invalid_field", "messages[0].tool_call_id", "the id of the call"),
        (
            message(role="tool", tool_call_id="c"),
            "invalid_field",
            "messages[0].tool_call_id",
            "assistant's message before",
        ),
        (message(content=""), "invalid_field", "messages[0].content", "is empty"),
        (message(content=None), "invalid_field", "messages[0].content", "is empty"),
        (message(content=[]), "invalid_field", "messages[0].content", "is empty"),
        (message(tool_calls=[{"id": "c"}]), "missing_required_parameter", "messages[0].tool_calls[0].function", ""),
        (
            message(tool_calls=[{"id": "c", "function": {"name": "f", "arguments": "{}"}}]),
            "invalid_field",
            "messages[0].tool_calls",
            "an assistant's",
        ),
        (message(refusal="no"), "unsupported_parameter", "messages[0].refusal", "leave it out"),
        (message(tool_call_id="c"), "invalid_field", "messages[0].tool_call_id", "no tool's"),
        (message(name="n" * 257), "invalid_field", "messages[0].name", "at most 256"),
        (message(content="x" * (TEXT_BYTES_MAX + 1)), "invalid_field", "messages[0].content", "isthmus ingest"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "invalid_field", "messages", "expected a text"),
        (
            message(content=[{"type": "image_url", "image_url": {"url": "u"}}]),
            "unsupported_parameter",
            "messages[0].content[0].type",
            "parts are texts",
        ),
        (
            message(content=[{"type": "input_audio", "input_audio": {}}]),
            "unsupported_parameter",
            "messages[0].content[0].type",
            "parts are texts",
        ),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].function", "functions of your own"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "unsupported_parameter", "tools[0].type", "type 'function'"),
        ({"tool_choice": "required"}, "invalid_field", "tool_choice", "one at least"),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions", "leave it out"),
        ({"n": 2}, "unsupported_parameter", "n", "null, 1"),
        ({"n": True}, "unsupported_parameter", "n", "null, 1"),
        ({"audio": {"voice": "v"}}, "unsupported_parameter", "audio", "leave it out"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities", '["text"]'),
        ({"logit_bias": {"5": 1}}, "unsupported_parameter", "logit_bias", "leave it out"),
        ({"reasoning_effort": "high"}, "unsupported_parameter", "reasoning_effort", "leave it out"),
        ({"best_of": 2}, "unknown_parameter", "best_of", "unknown parameter"),
        ({"temperature": 3}, "invalid_value", "temperature", "<= 2"),
        ({"presence_penalty": -3}, "invalid_value", "presence_penalty", ">= -2"),
        ({"top_logprobs": 3}, "invalid_field", "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs", "<= 20"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop", "length <= 4"),
        ({"stop": ""}, "invalid_field", "stop", "expected 1 to 256"),
        ({"stop": ["a", "é" * 129]}, "invalid_field", "stop[1]", "is 258 bytes"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "mutually_exclusive_parameters", "max_tokens", "leave one"),
        ({"response_format": {"type": "xml"}}, "unsupported_parameter", "response_format.type", "xml"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "missing_required_parameter",
            "response_format.json_schema.schema",
            "is missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}},
            "invalid_field",
            "response_format.json_schema.schema",
            "expected a JSON schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"title": "x" * 70_000}}}},
            "invalid_field",
            "response_format.json_schema.schema",
            "at most 65536",
        ),
        ({"metadata": {"isthmus.x": ""}}, "invalid_field", "metadata.isthmus.x", "kept for the mesh"),
        ({"stream_options": {"include_usage": True}}, "invalid_field", "stream_options", "stream: true"),
        ({"stream_options": {"include_obfuscation": True}}, "invalid_value", "stream_options.include_obfuscation", ""),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(body: dict[str, Any], code: str, param: str | None, says: str) -> None:
    found = refused(body)
    assert found[:2] == (code, param), found
    assert says in found[2]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, all_ in UNSUPPORTED.items() for value in all_])
def test_what_is_not_supported_may_be_there_as_nothing(name: str, value: object) -> None:
    for harmless in (value, None):
        assert chat_request(create(**{name: harmless}), "").history.messages


def test_an_answer_that_is_sent_back_as_it_came_is_taken() -> None:
    answer: dict[str, Any] = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None}
    assert [each.text for each in read([*HELLO, answer, *HELLO]).messages] == ["hello", "hi", "hello"]


def test_messages_have_one_form_however_they_are_written() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    plain = read([{"role": "system", "content": "s"}, {"role": "user", "content": "one\ntwo"}])
    other = read([{"role": "developer", "content": "s"}, {"role": "user", "content": parts}])
    assert plain == other
    assert [(each.role, each.text) for each in plain.messages] == [(SYSTEM, "s"), (USER, "one\ntwo")]


def test_an_assistant_that_says_nothing_is_left_out() -> None:
    silent = read([*HELLO, {"role": "assistant", "content": None}, {"role": "user", "content": "well?"}])
    assert (list(silent.paths), list(silent.answered())) == (["messages[0]", "messages[2]"], [])


@given(chats, chats)
def test_a_state_is_that_of_all_messages_up_to_it(chat: list[Any], other: list[Any]) -> None:
    whole, apart = read(chat), read(other)
    for count in range(1, len(chat) + 1):
        assert read(chat[:count]).states[-1] == whole.states[count]
    same = 0
    while same < min(len(chat), len(other)) and chat[same] == other[same]:
        same += 1
    assert whole.states[: same + 1] == apart.states[: same + 1]
    assert not set(whole.states[same + 1 :]) & set(apart.states[same + 1 :])
    sizes = [sum(len(each["content"].encode()) for each in chat[:count]) for count in range(len(chat) + 1)]
    assert list(whole.sizes) == sizes


@given(chats, st.text(min_size=1, max_size=8))
def test_an_answer_leads_to_the_state_that_it_has_when_it_is_sent_back(chat: list[Any], reply: str) -> None:
    back = read([*chat, {"role": "assistant", "content": reply}, *HELLO])
    assert read(chat).after(reply) == back.states[len(chat) + 1]
    assert next(back.answered()) == len(chat) + 1
    assert all(back.messages[count - 1].role == ASSISTANT for count in back.answered())


@pytest.mark.parametrize("name", ["user", "safety_identifier", "prompt_cache_key"])
def test_callers_that_say_who_they_are_have_no_conversations_in_common(name: str) -> None:
    states = [set(read(HELLO, **{name: value}).states) for value in ("a", "b")] + [set(read(HELLO).states)]
    assert len(set.union(*states)) == sum(map(len, states))


@given(st.lists(st.integers(min_value=1, max_value=TEXT_BYTES_MAX), min_size=1, max_size=6), st.integers(0, 600))
def test_batches_are_all_that_is_new_within_the_contract(sizes: list[int], more: int) -> None:
    texts = ["x" * size for size in sizes] + ["y"] * more
    made = read([{"role": "user", "content": text} for text in texts])
    for begin in {0, len(texts) // 2, len(texts) - 1}:
        batches = made.batches(begin)
        assert [each.text for batch in batches for each in batch] == texts[begin:]
        for batch in batches:
            assert 1 <= len(batch) <= MESSAGES_COUNT_MAX
            assert sum(each.ByteSize() for each in batch) <= MESSAGES_BYTES_MAX


def test_sampling_takes_openais_names() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    asked = create(
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.25,
        seed=-3,
        stop="end",
        presence_penalty=1,
        frequency_penalty=-1,
        logprobs=True,
        top_logprobs=4,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
    )
    params = sampling(asked)
    form = params.structured_output.json_schema
    params.ClearField("structured_output")
    assert json.loads(form) == schema
    assert params == message_pb2.SamplingParams(
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.25,
        seed=-3,
        stop=["end"],
        presence_penalty=1,
        frequency_penalty=-1,
        logprobs=4,
    )
    assert sampling(create(max_tokens=3)).max_output_tokens == 3
    assert sampling(create()) == message_pb2.SamplingParams()
    anything = sampling(create(response_format={"type": "json_object"})).structured_output.json_schema
    assert json.loads(anything) == {"type": "object"}
    assert not sampling(create(response_format={"type": "text"})).HasField("structured_output")


@pytest.mark.parametrize(
    ("field", "asked", "named"),
    [
        ("params.max_output_tokens", {"max_tokens": 3}, "max_tokens"),
        ("params.max_output_tokens", {}, "max_completion_tokens"),
        ("params.structured_output", {}, "response_format"),
        ("params.structured_output.json_schema", {}, "response_format"),
        ("params.structured_outputs", {}, "params.structured_outputs"),
        ("params.logprobs", {}, "params.logprobs"),
    ],
)
def test_an_error_tells_the_name_that_the_client_used(field: str, asked: dict[str, Any], named: str) -> None:
    told = told_by_name(create(**asked), InvalidField(field, "is wrong"))
    assert (told.fields[0].field, told.message) == (named, f"{named}: is wrong")


def test_an_error_without_a_field_is_told_as_it_is() -> None:
    error = IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, "full")
    assert told_by_name(create(), error) is error
