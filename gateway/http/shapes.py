"""What clients may send: OpenAI's request bodies as msgspec structs, which refuse any name that they do not know.

A parameter that OpenAI has and Isthmus does not is a field of type Raw: it may be there with a value that changes
nothing (HARMLESS), so that SDKs which always send it go through, and is refused by its name otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType, field

from gateway.http.stops import Stop
from gateway.http.tools.shapes import (
    FUNCTIONS_COUNT_MAX,
    FunctionName,
    FunctionTool,
    TextConfig,
    ToolChoice,
    raw_null,
)

ROLES = Literal["system", "developer", "user", "assistant"]
MESSAGES_COUNT_MAX = 256
TokensMin = Annotated[int, Meta(ge=0, le=1048576)]
ITEMS_COUNT_MAX = 20


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of text in a message."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Raw] = []
    logprobs: list[Raw] | None = None


class Item(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A message, a call that a reply has made, or what the function gave back.

    `id`, `status` and `phase` come along when the items of an earlier response are sent back.
    """

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: ROLES | UnsetType = UNSET
    content: str | list[Part] | UnsetType = UNSET
    phase: Literal["commentary", "final_answer"] | UnsetType | None = UNSET
    call_id: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    name: FunctionName | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    output: str | list[Part] | UnsetType = UNSET
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None

    def __post_init__(self) -> None:
        """ValueError, in msgspec's own words, for a field that an item of this type lacks, or does not know."""
        needed, optional = _ITEM_FIELDS[self.type]
        for name in needed:
            if getattr(self, name) is UNSET:
                raise ValueError(f"Object missing required field `{name}`")
        for name in _ITEM_FIELDS_ALL:
            if name not in needed and name not in optional and getattr(self, name) is not UNSET:
                raise ValueError(f"Object contains unknown field `{name}`")


# What an item of each type has, and what of it may be left out.
_ITEM_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "message": (("role", "content"), ("phase",)),
    "function_call": (("call_id", "name", "arguments"), ()),
    "function_call_output": (("call_id", "output"), ()),
}
_ITEM_FIELDS_ALL = sorted({name for fields in _ITEM_FIELDS.values() for name in (*fields[0], *fields[1])})


class ConversationRef(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation by its id."""

    id: str


class CreateResponse(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/responses.

    - `instructions` becomes a system message at the head of the turn, and stays in the session's log.
    - `truncation: "disabled"` fails a response whose window would not hold all of the session, word for word;
      otherwise the window always fits, and the receipt in `isthmus` names what it left out.
    - `tools` stay with the session: the model is told of them where they are not those of the response before.
    - `text.format` is kept to by the engine, token by token, and looked at once more at the end.
    - `metadata` is kept with the session; sent with a later response of it, it replaces what was there.
    - `store: false` erases the session after the answer, unless it is a conversation.
    - `user`, `safety_identifier` and `prompt_cache_key` are given back and not kept. The first two, of at most 256
      bytes, say whose limits the response counts against.
    """

    input: str | Annotated[list[Item], Meta(min_length=1, max_length=MESSAGES_COUNT_MAX)]
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1048576)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # Not OpenAI's: as vLLM has them, for benchmarks.
    stop: Stop = None
    ignore_eos: bool | None = None
    min_tokens: TokensMin | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=FUNCTIONS_COUNT_MAX)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None

    access_programs: Raw = field(default_factory=raw_null)
    context_management: Raw = field(default_factory=raw_null)
    image: Raw = field(default_factory=raw_null)
    include: Raw = field(default_factory=raw_null)
    max_tool_calls: Raw = field(default_factory=raw_null)
    moderation: Raw = field(default_factory=raw_null)
    prompt: Raw = field(default_factory=raw_null)
    prompt_cache_options: Raw = field(default_factory=raw_null)
    prompt_cache_retention: Raw = field(default_factory=raw_null)
    reasoning: Raw = field(default_factory=raw_null)
    service_tier: Raw = field(default_factory=raw_null)
    stream_options: Raw = field(default_factory=raw_null)
    top_logprobs: Raw = field(default_factory=raw_null)


class CreateConversation(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/conversations."""

    items: Annotated[list[Item], Meta(max_length=ITEMS_COUNT_MAX)] | None = None
    metadata: dict[str, str] | None = None


class UpdateConversation(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/conversations/{id}: the metadata that replaces what was there."""

    metadata: dict[str, str] | None


class CreateItems(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/conversations/{id}/items."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=ITEMS_COUNT_MAX)]


HARMLESS: dict[str, tuple[object, ...]] = {
    "access_programs": (),
    "context_management": ([],),
    "image": (),
    # There are no reasoning items to give back.
    "include": ([], ["reasoning.encrypted_content"]),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory", "24h"),
    "reasoning": ({},),
    "service_tier": ("auto", "default"),
    "stream_options": ({}, {"include_obfuscation": False}),
    "top_logprobs": (0,),
}
"""Values, besides null, of parameters that are not supported, under which the answer is the same as without."""
