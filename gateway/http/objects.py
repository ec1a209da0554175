"""OpenAI's objects as this edge answers with them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong, where in the request, and a word to switch on."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class InputText(msgspec.Struct, frozen=True, tag="input_text"):
    """A text that a client sent."""

    text: str


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    """A text that the model, or somebody in its role, said."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class Message(msgspec.Struct, frozen=True, tag="message"):
    """An item of a response or of a conversation."""

    id: str
    role: str
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[InputText | OutputText]


class FunctionCall(msgspec.Struct, frozen=True, tag="function_call"):
    """A call of a function of the client's; `arguments` is JSON as the model wrote it."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]


class FunctionCallOutput(msgspec.Struct, frozen=True, tag="function_call_output"):
    """What a function gave back."""

    id: str
    call_id: str
    output: str
    status: Literal["in_progress", "completed", "incomplete"]


Item: TypeAlias = Message | FunctionCall | FunctionCallOutput


class InputDetails(msgspec.Struct, frozen=True):
    """Prompt tokens that the engine found in its cache, as it counts them, 0 where it does not; writes are not told."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Always 0: nothing is kept back as reasoning."""

    reasoning_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the window and of the reply."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response has no answer."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why an answer ends early."""

    reason: str


class Isthmus(msgspec.Struct, frozen=True):
    """What the mesh adds: the turn behind the response, and its receipt once it is done."""

    turn: str
    request_id: str
    attempt: int
    receipt: dict[str, Any] | None = None


class ConversationRef(msgspec.Struct, frozen=True):
    """The conversation that a response belongs to."""

    id: str


class TextConfig(msgspec.Struct, frozen=True):
    """How the answer is written: as text, a JSON object, or JSON of a schema."""

    format: dict[str, Any]


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A turn as OpenAI's Response; what is not supported has the value that it has when it is not used."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: list[Item]
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float | None = None
    text: TextConfig
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[Any] = []
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: Literal["auto", "disabled"] = "auto"
    usage: Usage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}
    isthmus: Isthmus


class Conversation(msgspec.Struct, frozen=True):
    """A session as OpenAI's Conversation."""

    id: str
    created_at: int
    metadata: dict[str, str]
    object: Literal["conversation"] = "conversation"


class Deleted(msgspec.Struct, frozen=True):
    """That something is gone."""

    id: str
    object: Literal["response.deleted", "conversation.deleted"]
    deleted: Literal[True] = True


class ItemList(msgspec.Struct, frozen=True):
    """A page of items; the next one starts after `last_id`."""

    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class Model(msgspec.Struct, frozen=True):
    """A model that some replica serves now."""

    id: str
    created: int
    owned_by: str = "isthmus"
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct, frozen=True):
    """Every model that is served now."""

    data: list[Model]
    object: Literal["list"] = "list"
