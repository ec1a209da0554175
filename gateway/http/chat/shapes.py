"""What clients may send to `/v1/chat/completions`, in the way of `gateway/http/shapes.py`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType, field

from gateway.http.shapes import ROLES, TokensMin
from gateway.http.stops import Stop
from gateway.http.tools.shapes import (
    FUNCTIONS_COUNT_MAX,
    ChatTool,
    ChatToolCall,
    ChatToolChoice,
    JsonObjectFormat,
    TextFormat,
    raw_null,
)

# The body's bound in bytes comes first for messages that say anything.
MESSAGES_COUNT_MAX = 65_536
LOGPROBS_COUNT_MAX = 20

Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
Tokens: TypeAlias = Annotated[int, Meta(ge=1, le=1048576)]


class ChatPart(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A message. An assistant's may be without content, and have calls; a tool's names the call that it answers. What
    else comes along with an answer that is sent back is there only as nothing.
    """

    role: ROLES | Literal["tool"]
    content: str | list[ChatPart] | None = None
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None

    annotations: Raw | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    refusal: Raw | UnsetType = UNSET


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream has besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """A schema; the engine keeps to it whatever `strict` says. Name and description are not shown to the model."""

    schema: Raw
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class ChatJsonSchemaFormat(msgspec.Struct, forbid_unknown_fields=True, tag="json_schema"):
    """JSON of a schema."""

    json_schema: JsonSchema


class CreateChatCompletion(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions.

    - `messages` are recognised where they begin with what an earlier answer of this API went on from, and with that
      answer: only what comes after it is new. They are told apart by `user`, `safety_identifier` and
      `prompt_cache_key`, too.
    - `store: false` erases the context after the answer, so that nothing of it is recognised later.
    - `tools` stay with the conversation: the model is told of them where they are not those of the answer before.
    - `metadata` is kept with the context; sent with a later request, it replaces what was there.
    """

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MESSAGES_COUNT_MAX)]
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop = None
    # Not OpenAI's: as vLLM has them, for benchmarks.
    ignore_eos: bool | None = None
    min_tokens: TokensMin | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=LOGPROBS_COUNT_MAX)] | None = None
    response_format: TextFormat | JsonObjectFormat | ChatJsonSchemaFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    tools: Annotated[list[ChatTool], Meta(max_length=FUNCTIONS_COUNT_MAX)] | None = None
    tool_choice: ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None

    audio: Raw = field(default_factory=raw_null)
    function_call: Raw = field(default_factory=raw_null)
    functions: Raw = field(default_factory=raw_null)
    logit_bias: Raw = field(default_factory=raw_null)
    modalities: Raw = field(default_factory=raw_null)
    moderation: Raw = field(default_factory=raw_null)
    n: Raw = field(default_factory=raw_null)
    prediction: Raw = field(default_factory=raw_null)
    prompt_cache_options: Raw = field(default_factory=raw_null)
    prompt_cache_retention: Raw = field(default_factory=raw_null)
    reasoning_effort: Raw = field(default_factory=raw_null)
    service_tier: Raw = field(default_factory=raw_null)
    verbosity: Raw = field(default_factory=raw_null)
    web_search_options: Raw = field(default_factory=raw_null)


UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters that /v1/responses has not, in the way of HARMLESS."""
