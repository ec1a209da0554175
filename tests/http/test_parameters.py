"""Every parameter that OpenAI's SDK can send is known here: honoured, or refused by its own name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from gateway.http.body import decode, refuse_unsupported
from gateway.http.chat.shapes import UNSUPPORTED, CreateChatCompletion
from gateway.http.errors import Refusal
from gateway.http.shapes import CreateResponse

# One of a type that no parameter has: whatever is not honoured is refused by its name, not by its type.
ODD = [{"no": "such"}]
SENT: dict[type, dict[str, Any]] = {
    CreateResponse: {"input": "x"},
    CreateChatCompletion: {"messages": [{"role": "user", "content": "x"}]},
}


def read(body: dict[str, Any], shape: type[msgspec.Struct]) -> None:
    """As the edge reads a body."""
    value = decode(msgspec.json.encode(body), shape)
    refuse_unsupported(value, UNSUPPORTED if shape is CreateChatCompletion else {})


@pytest.mark.parametrize(
    ("params", "shape"),
    [(ResponseCreateParamsBase, CreateResponse), (CompletionCreateParamsBase, CreateChatCompletion)],
)
def test_what_the_sdk_can_send_is_known(params: type, shape: type[msgspec.Struct]) -> None:
    names = {*params.__annotations__, "stream"}
    known = {field.name: field for field in msgspec.structs.fields(shape)}
    assert names <= known.keys()
    for name in sorted(names - SENT[shape].keys()):
        with pytest.raises(Refusal) as caught:
            read({**SENT[shape], name: ODD}, shape)
        assert caught.value.param is not None
        assert caught.value.param.split("[")[0].split(".")[0] == name
        if known[name].type is msgspec.Raw:
            assert caught.value.code == "unsupported_parameter"
            assert "leave it out" in caught.value.message


@pytest.mark.parametrize("shape", SENT)
def test_what_nobody_knows_is_refused(shape: type[msgspec.Struct]) -> None:
    with pytest.raises(Refusal) as caught:
        read({**SENT[shape], "such": 1}, shape)
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "such")
