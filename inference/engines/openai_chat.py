"""An engine that is a provider of OpenAI's shape which takes conversations: `/v1/chat/completions`.

It has a tokenizer of its own that nobody here knows: windows are counted by ours, and its text is encoded by ours. A
reply that another replica has begun goes there as the beginning of the assistant's message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from inference.conversation import Conversations, Echo
from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.openai import OpenAIEngine, cached_tokens, choice_of, finish_of
from inference.engines.remote import Event, Said

_SAMPLES: Final = frozenset({"presence_penalty", "frequency_penalty"})
_PLAIN: Final = ("temperature", "top_p", "seed", *sorted(_SAMPLES))
# A tool's result belongs to a call that a window does not tell.
_ROLES: Final = {"system": "system", "assistant": "assistant"}


class OpenAIChatEngine(OpenAIEngine):
    """One provider. Asks at start what it serves, as `OpenAIEngine` does."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self.samples = _SAMPLES
        self._conversations = Conversations(context.tokenizer, context.files.vocabulary)

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        given = self._tokenizer.decode(request.emitted.tolist())
        return self._texts("chat/completions", self._body_of(request, given), Echo(given, given), _read)

    def _body_of(self, request: EngineRequest, given: str) -> dict[str, Any]:
        messages = [
            {"role": _ROLES.get(message.role, "user"), "content": message.text}
            for message in self._conversations.messages(request.window)
        ]
        sampling = request.sampling
        return {
            "model": request.adapter or self._served,
            "messages": [*messages, {"role": "assistant", "content": given}] if given else messages,
            self._settings.chat_length_field: sampling.output_tokens_max,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name in _PLAIN if (value := getattr(sampling, name)) is not None},
        }


def _read(event: Event) -> tuple[str, Said]:
    choice = choice_of(event)
    said = Said(finish=finish_of(choice), cached_tokens=cached_tokens(event))
    return (choice.get("delta") or {}).get("content") or "", said
