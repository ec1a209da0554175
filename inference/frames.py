"""What a chat template puts between the contents of a conversation, found by rendering conversations of marks.

A template is a program that renders a whole conversation. A window grows item by item, so what is wanted of the
template is what stands between two contents, whichever they are: it is asked with marks in the contents' places. A
template that refuses an order of roles (two of one role in a row, an assistant that begins) is asked for the nearest
order that it takes. The template runs in Jinja's sandbox, with what Hugging Face's library gives it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SYSTEM: Final = "system"
USER: Final = "user"
ASSISTANT: Final = "assistant"
TOOL: Final = "tool"
ROLES: Final = (SYSTEM, USER, ASSISTANT, TOOL)
# What stands before the first content.
START: Final = ""

# The rendering of a conversation (role, content) with or without the header of the reply to come. Raises TemplateError.
Render: TypeAlias = Callable[[Sequence[tuple[str, str]], bool], str]

# Conversations that end with a role, the plainest first.
_ENDING_WITH: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    START: ((),),
    SYSTEM: ((SYSTEM,),),
    USER: ((USER,), (SYSTEM, USER)),
    ASSISTANT: ((USER, ASSISTANT), (ASSISTANT,)),
    TOOL: ((TOOL,), (USER, ASSISTANT, TOOL), (USER, TOOL)),
}
_SAME_MESSAGE: Final = "\n\n"


class TemplateError(Exception):
    """The chat template cannot be used, or not for this."""


class Frames:
    """The text before each content, by the role before it (or START) and its own; before a reply, by the last role."""

    def __init__(self, render: Render) -> None:
        self._render = render
        if self._asked(START, USER) is None or self._asked(USER, ASSISTANT) is None:
            raise TemplateError("the chat template renders no conversation of a user and an assistant")
        befores = (START, *ROLES)
        self.between: Final = {(before, role): self._between(before, role) for before in befores for role in ROLES}
        self.header: Final = {role: self._header(role) for role in ROLES}

    def _between(self, before: str, role: str) -> str:
        asked = self._asked(before, role)
        if asked is not None:
            return asked
        before, role = self._taken(before), self._taken(role)
        if before == role:
            return _SAME_MESSAGE
        asked = self._asked(before, role)
        if asked is not None:
            return asked
        if role == ASSISTANT:
            # As after a user who said nothing.
            return self._between(before, USER) + self._between(USER, ASSISTANT)
        return self._between(before, USER)

    def _taken(self, role: str) -> str:
        """The role itself if the template knows it, else the user's."""
        known = role in (START, USER, ASSISTANT) or (role == SYSTEM and self._asked(START, SYSTEM) is not None)
        return role if known else USER

    def _asked(self, before: str, role: str) -> str | None:
        """What the template puts there; None where it refuses, or renders what came before otherwise than by itself."""
        for path in _ENDING_WITH[before]:
            marks = [f"Zq{number}wX" for number in range(len(path) + 1)]
            conversation = list(zip((*path, role), marks, strict=True))
            try:
                rendered = self._render(conversation, False)
                shorter = self._render(conversation[:-1], False) if path else ""
            except TemplateError:
                continue
            stop = rendered.find(marks[-1])
            start = rendered.find(marks[-2]) + len(marks[-2]) if path else 0
            if 0 <= start <= stop and rendered[:start] == shorter[:start]:
                return rendered[start:stop]
        return None

    def _header(self, role: str) -> str:
        for path in _ENDING_WITH[role]:
            marks = [f"Zq{number}wX" for number in range(len(path))]
            try:
                rendered = self._render(list(zip(path, marks, strict=True)), True)
            except TemplateError:
                continue
            if marks[-1] in rendered:
                return rendered.rpartition(marks[-1])[2]
        return self.between[role, ASSISTANT]


def renderer(template: str, variables: Mapping[str, str]) -> Render:
    """Renders by the text of a template; `variables` are such as `bos_token`. Raises TemplateError if it is none."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise
    # Part of every window: a date that changed would cost the whole prefix cache, each day.
    environment.globals["strftime_now"] = lambda form: datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC).strftime(form)
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise TemplateError(f"the chat template is not one: {error}") from error

    def render(conversation: Sequence[tuple[str, str]], with_header: bool) -> str:
        messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in conversation]
        try:
            return str(compiled.render(messages=messages, add_generation_prompt=with_header, **variables))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise TemplateError(str(error)) from error

    return render


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
