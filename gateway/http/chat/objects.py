"""OpenAI's chat completions as this edge answers with them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.http.objects import Isthmus

FinishReason = Literal["stop", "length", "tool_calls"]


class Likely(msgspec.Struct, frozen=True):
    """A token that could have been in a place; `token` shows bytes that are no whole character as they can be shown."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, and the likeliest ones in its place."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[Likely]


class Logprobs(msgspec.Struct, frozen=True):
    """Those of the tokens of an answer, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: list[Any] | None = None


class Function(msgspec.Struct, frozen=True):
    """What a call calls; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a function of the client's."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class AssistantMessage(msgspec.Struct, frozen=True):
    """The answer: a text, calls, or both."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    annotations: list[Any] = []
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True):
    """The one answer there is."""

    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None = None
    index: int = 0


class PromptDetails(msgspec.Struct, frozen=True):
    """Prompt tokens that the engine found in its cache, as it counts them, 0 where it does not."""

    cached_tokens: int
    audio_tokens: int = 0


class CompletionDetails(msgspec.Struct, frozen=True):
    """Always 0: nothing is kept back as reasoning."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class ChatUsage(msgspec.Struct, frozen=True):
    """Tokens of the window and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails = CompletionDetails()


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A turn as OpenAI's chat completion."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    isthmus: Isthmus
    object: Literal["chat.completion"] = "chat.completion"
    service_tier: Literal["default"] = "default"
    system_fingerprint: str | None = None


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a call: its name at first, then its arguments."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to one of the answer's calls, which are counted from 0 on."""

    index: int | UnsetType
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """A piece of the one answer there is."""

    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: Logprobs | None = None
    index: int = 0


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a streamed chat completion; `usage` is in all of them where it was asked for, null but in the last."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | UnsetType | None = UNSET
    isthmus: Isthmus | UnsetType = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    service_tier: Literal["default"] = "default"
    system_fingerprint: str | None = None
