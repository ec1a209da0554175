"""Window, template and reply share the model's context, and none is ever left without room."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from isthmus.session.v1 import message_pb2

from gateway.turn.budget import ModelLimits, divide
from services.errors import InvalidField


def limits(context: int, overhead: int, default: int) -> ModelLimits:
    return ModelLimits("m", b"", context, overhead, default)


@given(st.integers(256, 10**7), st.integers(0, 64), st.integers(1, 10**6), st.none() | st.integers(1, 10**6))
def test_what_is_shared_out_fits_the_context(context: int, overhead: int, default: int, asked: int | None) -> None:
    assume(asked is None or asked < context - overhead)
    budget = divide(limits(context, overhead, default), message_pb2.SamplingParams(max_output_tokens=asked))
    assert budget.window_tokens_max >= 1
    assert budget.output_tokens_max == (asked or budget.output_tokens_max) >= 1
    assert budget.window_tokens_max + budget.output_tokens_max + overhead <= context


def test_the_default_reply_takes_at_most_half() -> None:
    budget = divide(limits(2_100, 100, 4_096), message_pb2.SamplingParams())
    assert (budget.window_tokens_max, budget.output_tokens_max) == (1_000, 1_000)


def test_a_reply_that_leaves_no_window_is_refused_by_field() -> None:
    with pytest.raises(InvalidField) as caught:
        divide(limits(1_000, 10, 100), message_pb2.SamplingParams(max_output_tokens=990))
    assert caught.value.fields[0].field == "params.max_output_tokens"
    assert "990" in caught.value.message


def test_limits_are_read_from_a_members_labels() -> None:
    labels = {
        "model": "m",
        "engine": "local",
        "tokenizer": "0a0b",
        "context_tokens_max": "8192",
        "overhead_tokens": "9",
        "max_output_tokens_default": "512",
    }
    assert ModelLimits.from_labels(labels) == ModelLimits("m", b"\x0a\x0b", 8192, 9, 512)
