"""An engine that is a provider of Anthropic's shape: the Messages API (`/v1/messages`), streamed.

It has a tokenizer of its own that nobody here knows: windows are counted by ours, and its text is encoded by ours. A
reply that another replica has begun goes there as the beginning of the assistant's message.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from isthmus.session.v1 import turn_pb2

from inference.conversation import Conversations, Echo, Message
from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.provider import Provider
from inference.model_files import ModelFilesError

_SAMPLES: Final = frozenset({"top_k"})
_PLAIN: Final = ("temperature", "top_p", "top_k")
_LENGTH: Final = frozenset({"max_tokens", "model_context_window_exceeded"})
# A conversation has to begin with the user's word, and no message may be empty.
_BEGIN: Final = "Go on."
_EMPTY: Final = "(no text)"


class AnthropicEngine:
    """One provider. Calls nobody before the first request: each has its price."""

    def __init__(self, context: EngineContext) -> None:
        settings = context.anthropic
        if settings.model is None:
            raise ModelFilesError("anthropic.model is not set; expected the name of a model that the provider serves")
        url = context.settings.engine.partition(":")[2].rstrip("/")
        self.model = context.settings.model or settings.model
        self.context_tokens_max = context.settings.context_tokens_max or context.files.vocabulary.context_tokens_max
        self.adapters: tuple[str, ...] = ()
        self.samples = _SAMPLES
        self.is_loading = False
        self.running = 0
        self._asked = settings.model
        self._tokenizer = context.tokenizer
        self._conversations = Conversations(context.tokenizer, context.files.vocabulary)
        key = os.environ.get(settings.api_key_env)
        self._provider = Provider(
            url,
            {"anthropic-version": settings.version} | ({"x-api-key": key} if key else {}),
            silence_ms_max=settings.silence_ms_max,
            connect_ms_max=settings.connect_ms_max,
            connections_max=context.settings.requests_running_max + 1,
        )

    @property
    def steps(self) -> int:
        return self._provider.steps

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        await self._provider.aclose()

    async def forget(self, session: str) -> int:
        return 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        given = self._tokenizer.decode(request.emitted.tolist())
        # The API refuses a beginning with blanks at its end.
        sent = given.rstrip()
        echo = Echo(given, sent)
        self.running += 1
        try:
            async with self._provider.stream("messages", self._body(request, sent)) as answer:
                cached: int | None = None
                finish = turn_pb2.FINISH_REASON_UNSPECIFIED
                limits = answer.limits
                async for event in answer.events:
                    cached = _cached_tokens(event, cached)
                    finish = _finish(event) or finish
                    text = echo.push(_text(event))
                    if text:
                        yield EngineOutput(self._encoded(text), cached_tokens=cached, limits=limits)
                        limits = None
                if not finish:
                    raise self._provider.broken_off()
                yield EngineOutput(self._encoded(echo.finish()), finish, cached)
        finally:
            self.running -= 1

    def _body(self, request: EngineRequest, sent: str) -> dict[str, Any]:
        system, messages = _shaped(self._conversations.messages(request.window))
        # What comes again with the next turn ends here.
        messages[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        if sent:
            messages.append({"role": "assistant", "content": [_block(sent)]})
        sampling = request.sampling
        return {
            "model": self._asked,
            "max_tokens": sampling.output_tokens_max,
            "messages": messages,
            "stream": True,
            **({"system": system} if system else {}),
            **{name: value for name in _PLAIN if (value := getattr(sampling, name)) is not None},
        }

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text).tolist()) if text else ()


def _shaped(conversation: list[Message]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the system says first, and the others' words in turns; the system's later words are the user's."""
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for each in conversation:
        if each.role == "system" and not messages:
            system.append(_block(each.text))
            continue
        role = "assistant" if each.role == "assistant" else "user"
        if not messages and role == "assistant":
            messages.append({"role": "user", "content": [_block(_BEGIN)]})
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].append(_block(each.text))
        else:
            messages.append({"role": role, "content": [_block(each.text)]})
    if not messages or messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": [_block(_BEGIN)]})
    return system, messages


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text if text.strip() else _EMPTY}


def _text(event: Mapping[str, Any]) -> str:
    delta = event.get("delta") or {}
    return str(delta.get("text") or "") if delta.get("type") == "text_delta" else ""


def _finish(event: Mapping[str, Any]) -> turn_pb2.FinishReason.ValueType | None:
    reason = (event.get("delta") or {}).get("stop_reason") if event.get("type") == "message_delta" else None
    if reason is None:
        return None
    return turn_pb2.FINISH_REASON_LENGTH if reason in _LENGTH else turn_pb2.FINISH_REASON_STOP


def _cached_tokens(event: Mapping[str, Any], before: int | None) -> int | None:
    usage = (event.get("message") or {}).get("usage") or {}
    cached = usage.get("cache_read_input_tokens")
    return int(cached) if cached is not None else before
