"""Whatever a turn says and however it ends, its chunks are a stream that OpenAI's clients understand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.session.v1 import message_pb2, turn_pb2
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.http.chat.chunks import DONE, ChatChunks, completion, logprobs_of
from gateway.http.errors import Problem

NAME = "chatcmpl-s_3"
TOKENS = turn_pb2.TokenCounts(window_tokens=7, output_tokens=5, cached_tokens=3)
texts = st.lists(st.text(max_size=20), max_size=8)


def done(text: str, reason: turn_pb2.FinishReason.ValueType = turn_pb2.FINISH_REASON_STOP) -> turn_pb2.Turn:
    receipt = turn_pb2.Receipt(model="m", tokens=TOKENS)
    state = turn_pb2.Turn.STATE_DONE
    return turn_pb2.Turn(
        name="sessions/s/turns/3", number=3, state=state, output_text=text, finish_reason=reason, receipt=receipt
    )


def logprob(token: bytes, value: float, *likeliest: tuple[bytes, float]) -> message_pb2.TokenLogprob:
    others = [message_pb2.TokenLogprob(token=each, logprob=rate) for each, rate in likeliest]
    return message_pb2.TokenLogprob(token=token, logprob=value, likeliest=others)


def decoded(chunks: Iterable[bytes]) -> list[Any]:
    """As a client reads them off the wire; the SDK's own type must accept each."""
    seen = []
    for chunk in chunks:
        data, end, nothing = chunk.decode().split("\n")
        assert (data[:6], end, nothing) == ("data: ", "", "")
        seen.append(json.loads(data[6:]))
        ChatCompletionChunk.model_validate(seen[-1])
    return seen


@given(texts, st.integers(min_value=0, max_value=20), st.booleans(), st.booleans())
def test_a_stream_tells_the_whole_answer_once(deltas: list[str], unsent: int, is_cut: bool, with_usage: bool) -> None:
    text = "".join(deltas) + "x" * unsent
    reason = turn_pb2.FINISH_REASON_LENGTH if is_cut else turn_pb2.FINISH_REASON_STOP
    told = ChatChunks(NAME, 12, "m", with_usage)
    chunks = [
        *told.begun(),
        *(chunk for delta in deltas for chunk in told.delta(delta)),
        *told.done(done(text, reason)),
    ]
    assert chunks[-1] == DONE
    seen = decoded(chunks[:-1])
    assert {(each["id"], each["created"], each["model"], each["object"]) for each in seen} == {
        (NAME, 12, "m", "chat.completion.chunk")
    }
    if with_usage:
        last = seen.pop()
        assert last["choices"] == []
        assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (7, 5)
        assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
        assert {each["usage"] for each in seen} == {None}
    else:
        assert not any("usage" in each for each in seen)
    choices = [each["choices"][0] for each in seen]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(each["delta"].get("content", "") for each in choices) == text
    assert [each["finish_reason"] for each in choices[:-1]] == [None] * (len(choices) - 1)
    assert (choices[-1]["finish_reason"], choices[-1]["delta"]) == ("length" if is_cut else "stop", {})
    assert seen[-1]["isthmus"]["turn"] == "sessions/s/turns/3"


@given(texts)
def test_a_failure_ends_the_stream_wherever_it_strikes(deltas: list[str]) -> None:
    told = ChatChunks(NAME, 12, "m", with_usage=True)
    problem = Problem(500, "it broke", None, "engine_failed")
    *_, last = [*told.begun(), *(chunk for delta in deltas for chunk in told.delta(delta)), *told.failed(problem)]
    assert json.loads(last.removeprefix(b"data: "))["error"] == {
        "message": "it broke",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }


def test_logprobs_come_with_the_piece_that_they_are_of() -> None:
    told = ChatChunks(NAME, 12, "m", with_usage=False)
    first, second = decoded([*told.delta("é", [logprob(b"\xc3", -0.5)]), *told.delta("", [logprob(b"a", -1.0)])])
    assert first["choices"][0]["logprobs"]["content"] == [
        {"token": "�", "bytes": [0xC3], "logprob": -0.5, "top_logprobs": []}
    ]
    assert second["choices"][0]["delta"] == {"content": ""}
    assert second["choices"][0]["logprobs"]["content"][0]["token"] == "a"
    assert list(told.delta("")) == []


def test_a_whole_completion_has_everything_at_once() -> None:
    made = completion(
        NAME, done("hi", turn_pb2.FINISH_REASON_LENGTH), [logprob(b"hi", -0.25, (b"hi", -0.25), (b"yo", -2.0))]
    )
    seen = ChatCompletion.model_validate_json(msgspec.json.encode(made))
    choice = seen.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hi", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [each.token for each in choice.logprobs.content[0].top_logprobs] == ["hi", "yo"]
    assert seen.usage is not None
    assert (seen.usage.prompt_tokens, seen.usage.completion_tokens, seen.usage.total_tokens) == (7, 5, 12)
    assert seen.usage.prompt_tokens_details is not None
    assert seen.usage.prompt_tokens_details.cached_tokens == 3


def test_without_logprobs_there_are_none() -> None:
    assert logprobs_of([]) is None
    assert completion(NAME, done("hi"), []).choices[0].logprobs is None


@pytest.mark.parametrize("text", ["", "all of it"])
def test_what_was_never_streamed_comes_at_the_end(text: str) -> None:
    told = ChatChunks(NAME, 12, "m", with_usage=False)
    *chunks, last = told.done(done(text))
    assert last == DONE
    pieces = [each["choices"][0]["delta"].get("content") for each in decoded(chunks)]
    assert pieces == ([text] if text else []) + [None]
