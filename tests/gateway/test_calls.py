"""Calls are found in a reply's text, the same ones wherever it is cut, and a message is read as it was written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from isthmus.session.v1 import message_pb2

from gateway.tools.calls import Arguments, Call, CallReader, Event, Text, canonical, joined, split
from services.tool_calls import CLOSE, OPEN, call

ToolUse = message_pb2.ToolUse
TOOLS = ToolUse(functions=[ToolUse.Function(name="look_up"), ToolUse.Function(name="f-2")])
values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each, max_size=3))
arguments = st.dictionaries(st.text(max_size=5), values, max_size=3).map(json.dumps)
calls = st.builds(Call, st.sampled_from(["look_up", "f-2"]), arguments)
rubbish = st.lists(
    st.sampled_from(
        [OPEN, CLOSE, "\n", " ", "{", "}", '"', "\\", '{"name": "look_up", "arguments": ', "text", ":", ","]
    )
).map("".join)


def read(pieces: Sequence[str], tools: ToolUse | None = TOOLS) -> list[Event]:
    """The events, neighbours of one kind made one: where a text is cut is no difference."""
    reader = CallReader(tools)
    events: list[Event] = []
    for event in [each for piece in pieces for each in reader.feed(piece)] + list(reader.finish()):
        match event, events[-1] if events else None:
            case Text(text), Text(before):
                events[-1] = Text(before + text)
            case Arguments(text), Arguments(before):
                events[-1] = Arguments(before + text)
            case _:
                events.append(event)
    return events


def cut(text: str, places: Sequence[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


def test_a_reply_may_say_something_and_call() -> None:
    text = "\n".join(["Let me see.", call("look_up", '{"city": "Paris"}'), call("f-2", "{}")])
    assert split(text, TOOLS) == ["Let me see.", Call("look_up", '{"city": "Paris"}'), Call("f-2", "{}")]


@given(
    rubbish | st.text() | st.builds(lambda text, made: text + joined("", [made]), rubbish, calls),
    st.lists(st.integers(min_value=0, max_value=10_000), max_size=20),
)
@example(f'a {OPEN}{{"name": "look_up", "arguments": {{"a": "\\\\\\"}}"}}}}{CLOSE} b', [])
def test_wherever_a_text_is_cut_it_says_the_same(text: str, places: list[int]) -> None:
    assert read(cut(text, places)) == read([text]) == read(list(text))


@given(rubbish | st.text())
def test_without_functions_every_text_is_itself(text: str) -> None:
    assert split(text, None) == ([text] if text else [])
    none = ToolUse(functions=TOOLS.functions, choice=ToolUse.CHOICE_NONE)
    assert split(text, none) == ([text] if text else [])


@given(st.text(alphabet="abc .", max_size=20).map(str.strip), st.lists(calls, min_size=1, max_size=3))
def test_what_was_written_as_a_message_is_read_back(content: str, made: list[Call]) -> None:
    assert split(joined(content, made), TOOLS) == ([content] if content else []) + made


@given(rubbish, st.lists(calls, max_size=2))
def test_a_reply_is_recognised_as_a_client_sends_it_back(text: str, made: list[Call]) -> None:
    """The client knows the text and the calls, and not what stood between them."""
    reply = "\n \n".join([text, *(joined("", [each]) for each in made)])
    parts = split(reply, TOOLS)
    content = "".join(each for each in parts if isinstance(each, str))
    sent_back = joined(content, [each for each in parts if isinstance(each, Call)])
    assert canonical(reply, TOOLS) == (sent_back or reply)


@pytest.mark.parametrize(
    "text",
    [
        call("somebody_else", "{}"),
        f"{OPEN}\nlook_up()\n{CLOSE}",
        f'{OPEN}\n{{"name": "look_up", "arguments": "x"}}\n{CLOSE}',
        f"the word {OPEN} alone",
    ],
)
def test_what_calls_nothing_that_may_be_called_is_text(text: str) -> None:
    assert split(text, TOOLS) == [text]


def test_only_those_that_are_allowed_may_be_called_and_one_where_one_is_wanted() -> None:
    both = f"{call('look_up', '{}')}\n{call('f-2', '{}')}"
    allowed = ToolUse(functions=TOOLS.functions, allowed=["f-2"])
    assert [each for each in split(both, allowed) if isinstance(each, Call)] == [Call("f-2", "{}")]
    single = ToolUse(functions=TOOLS.functions, single=True)
    assert split(both, single) == [Call("look_up", "{}"), call("f-2", "{}")]


def test_a_call_that_was_cut_says_so() -> None:
    begun = call("look_up", '{"city": "Paris"}')[:-20]
    (only,) = split(begun, TOOLS)
    assert isinstance(only, Call)
    assert not only.is_whole
    assert only.arguments.startswith('{"ci')


def test_a_flood_of_white_space_is_held_back_no_further_than_it_may_belong_to_a_call() -> None:
    reader = CallReader(TOOLS)
    said = "".join(event.text for _ in range(1_000) for event in reader.feed(" ") if isinstance(event, Text))
    assert 900 < len(said) < 1_000
