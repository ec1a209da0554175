"""An engine that is a provider of Anthropic's shape: the Messages API (`/v1/messages`), streamed.

It has a tokenizer of its own that nobody here knows: windows are counted by ours, and its text is encoded by ours. A
reply that another replica has begun goes there as the beginning of the assistant's message.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import Any, Final

from isthmus.session.v1 import turn_pb2

from inference.conversation import Conversations, Echo, Message
from inference.engine import EngineContext, EngineOutput, EngineRequest
from inference.engines.provider import Provider
from inference.engines.remote import Event, RemoteEngine, Said
from inference.model_files import ModelFilesError

_SAMPLES: Final = frozenset({"top_k"})
_PLAIN: Final = ("temperature", "top_p", "top_k")
_LENGTH: Final = frozenset({"max_tokens", "model_context_window_exceeded"})
# A conversation has to begin with the user's word, and no message may be empty.
_BEGIN: Final = "Go on."
_EMPTY: Final = "(no text)"


class AnthropicEngine(RemoteEngine):
    """One provider. Calls nobody before the first request: each has its price."""

    def __init__(self, context: EngineContext) -> None:
        settings = context.anthropic
        if settings.model is None:
            raise ModelFilesError("anthropic.model is not set; expected the name of a model that the provider serves")
        key = os.environ.get(settings.api_key_env)
        provider = Provider(
            context.settings.engine.partition(":")[2].rstrip("/"),
            {"anthropic-version": settings.version} | ({"x-api-key": key} if key else {}),
            silence_ms_max=settings.silence_ms_max,
            connect_ms_max=settings.connect_ms_max,
            connections_max=context.settings.requests_running_max + 1,
        )
        super().__init__(context, provider)
        self.model = context.settings.model or settings.model
        self.samples = _SAMPLES
        self._asked = settings.model
        self._conversations = Conversations(context.tokenizer, context.files.vocabulary)

    async def start(self) -> None:
        """Nothing to load."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        given = self._tokenizer.decode(request.emitted.tolist())
        # The API refuses a beginning with blanks at its end.
        sent = given.rstrip()
        return self._texts("messages", self._body(request, sent), Echo(given, sent), _read)

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


def _read(event: Event) -> tuple[str, Said]:
    return _text(event), Said(finish=_finish(event), cached_tokens=_cached_tokens(event))


def _text(event: Event) -> str:
    delta = event.get("delta") or {}
    return str(delta.get("text") or "") if delta.get("type") == "text_delta" else ""


def _finish(event: Event) -> turn_pb2.FinishReason.ValueType:
    reason = (event.get("delta") or {}).get("stop_reason") if event.get("type") == "message_delta" else None
    if reason is None:
        return turn_pb2.FINISH_REASON_UNSPECIFIED
    return turn_pb2.FINISH_REASON_LENGTH if reason in _LENGTH else turn_pb2.FINISH_REASON_STOP


def _cached_tokens(event: Event) -> int | None:
    usage = (event.get("message") or {}).get("usage") or {}
    cached = usage.get("cache_read_input_tokens")
    return None if cached is None else int(cached)
