"""An engine that is a provider of OpenAI's shape which takes conversations: `/v1/chat/completions`.

It has a tokenizer of its own that nobody here knows: windows are counted by ours, and its text is encoded by ours. A
reply that another replica has begun goes there as the beginning of the assistant's message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from isthmus.session.v1 import turn_pb2

from inference.conversation import Conversations, Echo
from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.openai import FINISH, OpenAIEngine, cached_tokens

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

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        given = self._tokenizer.decode(request.emitted.tolist())
        echo = Echo(given, given)
        self.running += 1
        try:
            async with self._provider.stream("chat/completions", self._body_of(request, given)) as answer:
                cached: int | None = None
                finish = turn_pb2.FINISH_REASON_UNSPECIFIED
                limits = answer.limits
                async for event in answer.events:
                    cached = cached_tokens(event, cached)
                    for choice in event.get("choices", ()):
                        finish = FINISH.get(choice.get("finish_reason"), finish)
                        text = echo.push((choice.get("delta") or {}).get("content") or "")
                        if text:
                            yield EngineOutput(self._encoded(text), cached_tokens=cached, limits=limits)
                            limits = None
                if not finish:
                    raise self._provider.broken_off()
                yield EngineOutput(self._encoded(echo.finish()), finish, cached)
        finally:
            self.running -= 1

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

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text).tolist()) if text else ()
