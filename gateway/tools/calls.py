"""Calls within a reply's text: found piece by piece, the same ones however the text is cut. Pure.

A call is what `services/tool_calls.py` shows, its name one that may be called; whatever else looks like one is text.
White space between a text and a call belongs to neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from isthmus.session.v1 import message_pb2

from services.tool_calls import CLOSE, OPEN, call, callable_names

# Characters of white space that are looked through, in a call's frame and around it.
_SPACE_MAX: Final = 64
_SPACE: Final = rf"\s{{0,{_SPACE_MAX}}}"


def _growing(atoms: Sequence[str]) -> re.Pattern[str]:
    """Matches whatever may become a match of all the atoms, one after the other."""
    pattern = ""
    for atom in reversed(atoms):
        pattern = f"{atom}(?:{pattern})?" if pattern else atom
    return re.compile(rf"(?:{pattern})?\Z")


def _letters(text: str) -> list[str]:
    return [re.escape(each) for each in text]


_HEAD_ATOMS: Final = [
    *_letters(OPEN),
    _SPACE,
    r"\{",
    _SPACE,
    *_letters('"name"'),
    _SPACE,
    ":",
    _SPACE,
    '"',
    "[a-zA-Z0-9_-]{1,64}",
    '"',
    _SPACE,
    ",",
    _SPACE,
    *_letters('"arguments"'),
    _SPACE,
    ":",
    _SPACE,
]
_HEAD: Final = re.compile("".join(_HEAD_ATOMS).replace("[a-zA-Z0-9_-]{1,64}", "([a-zA-Z0-9_-]{1,64})") + r"(?=\{)")
_HEAD_BEGUN: Final = _growing(_HEAD_ATOMS)
# Models forget the brace that closes the call itself.
_TAIL: Final = re.compile(rf"{_SPACE}\}}?{_SPACE}{re.escape(CLOSE)}")
_TAIL_BEGUN: Final = re.compile(rf"{_SPACE}\}}?{_SPACE}(?:{_growing(_letters(CLOSE)).pattern})")
_OPEN_BEGUN: Final = re.compile(rf"{_SPACE}(?:{_growing(_letters(OPEN)).pattern})")
_STRUCTURE: Final = re.compile(r'["{}]')
_STRING_END: Final = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
_LOOK_BACK: Final = _SPACE_MAX + len(OPEN)


@dataclass(frozen=True, slots=True)
class Text:
    """More of a text."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call begins."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the call's arguments, as the model wrote them."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call's arguments are all there, or the reply ended before they were."""

    is_whole: bool


Event: TypeAlias = Text | Called | Arguments | CallEnded


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call, or what a reply that was cut has of it. `arguments` need not be JSON: the model wrote them."""

    name: str
    arguments: str
    is_whole: bool = True


class CallReader:
    """Reads one reply; `tools` says what it may call, and without it all of the reply is text."""

    def __init__(self, tools: message_pb2.ToolUse | None) -> None:
        self._names: Collection[str] = callable_names(tools) if tools is not None else ()
        self._single = tools is not None and tools.single
        self._held = ""
        self._state = self._in_text
        self._calls = 0
        # Whether the text since the last call has begun.
        self._in_segment = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> Iterator[Event]:
        """What this piece brings."""
        self._held += text
        while True:
            before = (self._state, len(self._held))
            yield from self._state()
            if before == (self._state, len(self._held)):
                return

    def finish(self) -> Iterator[Event]:
        """What the reply's end brings."""
        held, self._held = self._held, ""
        if self._state == self._in_arguments:
            yield CallEnded(is_whole=False)
        elif self._state == self._in_text:
            yield from self._text(held, is_last=True)

    def _in_text(self) -> Iterator[Event]:
        if not self._may_call():
            held, self._held = self._held, ""
            yield from self._text(held)
            return
        start = self._held.find(OPEN)
        if start < 0:
            keep = self._kept_back()
            said, self._held = self._held[:keep], self._held[keep:]
            yield from self._text(said)
            return
        head = _HEAD.match(self._held, start)
        if head and head[1] in self._names:
            yield from self._text(_without_space(self._held[:start]))
            yield Called(head[1])
            self._calls += 1
            self._in_segment = False
            self._held = self._held[head.end() :]
            self._depth, self._in_string, self._is_escaped = 0, False, False
            self._state = self._in_arguments
        elif head or not _HEAD_BEGUN.match(self._held, start):
            said, self._held = self._held[: start + len(OPEN)], self._held[start + len(OPEN) :]
            yield from self._text(said)
        else:
            said = _without_space(self._held[:start])
            self._held = self._held[len(said) :]
            yield from self._text(said)

    def _in_arguments(self) -> Iterator[Event]:
        at = self._arguments_end()
        said, self._held = self._held[:at], self._held[at:]
        if said:
            yield Arguments(said)
        if said and not self._depth:
            yield CallEnded(is_whole=True)
            self._state = self._after_arguments

    def _after_arguments(self) -> Iterator[Event]:
        tail = _TAIL.match(self._held)
        if tail:
            self._held = self._held[tail.end() :]
        elif _TAIL_BEGUN.match(self._held):
            return
        self._state = self._in_text
        yield from ()

    def _arguments_end(self) -> int:
        """How far the arguments go in what is held; at their last brace the depth is 0."""
        at = 0
        while at < len(self._held):
            if self._in_string:
                at = self._string_end(at)
                continue
            found = _STRUCTURE.search(self._held, at)
            if found is None:
                return len(self._held)
            at = found.end()
            if found[0] == '"':
                self._in_string = True
            else:
                self._depth += 1 if found[0] == "{" else -1
                if not self._depth:
                    return at
        return at

    def _string_end(self, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        end = _STRING_END.match(self._held, at)
        if end:
            self._in_string = False
            return end.end()
        rest = self._held[at:]
        self._is_escaped = (len(rest) - len(rest.rstrip("\\"))) % 2 == 1
        return len(self._held)

    def _text(self, said: str, *, is_last: bool = False) -> Iterator[Event]:
        if self._calls and not self._in_segment:
            # What comes after a call begins with its first letter.
            said = said.lstrip()
        if said and (self._in_segment or not is_last or said.strip() or not self._calls):
            self._in_segment = True
            yield Text(said)

    def _may_call(self) -> bool:
        return bool(self._names) and not (self._single and self._calls)

    def _kept_back(self) -> int:
        """Where that begins which may be the beginning of a call, white space before it included."""
        for at in range(max(0, len(self._held) - _LOOK_BACK), len(self._held)):
            if _OPEN_BEGUN.match(self._held, at):
                return at
        return len(self._held)


def _without_space(text: str) -> str:
    """Without the white space at its end, as far as it is looked through."""
    return text[: max(len(text.rstrip()), len(text) - _SPACE_MAX)]


def split(text: str, tools: message_pb2.ToolUse | None) -> list[str | Call]:
    """A whole reply as its texts and calls, in order."""
    parts: list[str | Call] = []
    reader = CallReader(tools)
    for event in (*reader.feed(text), *reader.finish()):
        match event, parts[-1] if parts else None:
            case Text(more), str(said):
                parts[-1] = said + more
            case Text(more), _:
                parts.append(more)
            case Called(name), _:
                parts.append(Call(name, "", is_whole=False))
            case Arguments(more), Call(name, arguments):
                parts[-1] = Call(name, arguments + more, is_whole=False)
            case CallEnded(is_whole), Call(name, arguments):
                parts[-1] = Call(name, arguments, is_whole)
    return parts


def joined(content: str, calls: Sequence[Call]) -> str:
    """A message of a text and calls as the log has it, where a client sends it."""
    return "\n".join(([content] if content else []) + [call(each.name, each.arguments) for each in calls])


def canonical(reply: str, tools: message_pb2.ToolUse | None) -> str:
    """A reply as a client would send it back: the same text and calls, whatever stood between them."""
    parts = split(reply, tools)
    calls = [each for each in parts if isinstance(each, Call)]
    return joined("".join(each for each in parts if isinstance(each, str)), calls) if calls else reply
