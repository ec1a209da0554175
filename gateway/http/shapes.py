"""What clients may send: OpenAI's request bodies as msgspec structs, which refuse any name that they do not know.

A parameter that OpenAI has and Isthmus does not is a field of type Raw: it may be there with a value that changes
nothing (HARMLESS), so that SDKs which always send it go through, and is refused by its name otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, field

ROLES = Literal["system", "developer", "user", "assistant"]
MESSAGES_COUNT_MAX = 256
ITEMS_COUNT_MAX = 20


def raw_null() -> Raw:
    """Left out is as null. A function, because Litestar's schema wants hashable defaults."""
    return Raw(b"null")


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of text in a message."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Raw] = []
    logprobs: list[Raw] | None = None


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """A message. `id`, `status` and `phase` come along when the reply of an earlier response is sent back."""

    role: ROLES
    content: str | list[Part]
    type: Literal["message"] = "message"
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class ConversationRef(msgspec.Struct, forbid_unknown_fields=True):
    """A conversation by its id."""

    id: str


class CreateResponse(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/responses.

    - `instructions` becomes a system message at the head of the turn, and stays in the session's log.
    - `truncation` may be "auto" or "disabled" and changes nothing: the window always fits, and the receipt in
      `isthmus` names what it left out.
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
    store: bool | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=1048576)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    access_programs: Raw = field(default_factory=raw_null)
    background: Raw = field(default_factory=raw_null)
    context_management: Raw = field(default_factory=raw_null)
    image: Raw = field(default_factory=raw_null)
    include: Raw = field(default_factory=raw_null)
    max_tool_calls: Raw = field(default_factory=raw_null)
    moderation: Raw = field(default_factory=raw_null)
    parallel_tool_calls: Raw = field(default_factory=raw_null)
    prompt: Raw = field(default_factory=raw_null)
    prompt_cache_options: Raw = field(default_factory=raw_null)
    prompt_cache_retention: Raw = field(default_factory=raw_null)
    reasoning: Raw = field(default_factory=raw_null)
    service_tier: Raw = field(default_factory=raw_null)
    stream_options: Raw = field(default_factory=raw_null)
    text: Raw = field(default_factory=raw_null)
    tool_choice: Raw = field(default_factory=raw_null)
    tools: Raw = field(default_factory=raw_null)
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
    "background": (False,),
    "context_management": ([],),
    "image": (),
    "include": ([],),
    "max_tool_calls": (),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning": ({},),
    "service_tier": ("auto", "default"),
    "stream_options": ({}, {"include_obfuscation": False}),
    "text": ({}, {"format": {"type": "text"}}),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Values, besides null, of parameters that are not supported, under which the answer is the same as without."""
