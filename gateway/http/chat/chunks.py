"""The chunks of a streamed chat completion, in the order that OpenAI's clients expect, and the parts they share. Pure.

The role, the answer piece by piece, its end, its usage where that was asked for, `[DONE]`; or an error anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from isthmus.session.v1 import message_pb2, turn_pb2
from msgspec import UNSET

from gateway.http.chat.objects import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    Function,
    FunctionDelta,
    Likely,
    Logprobs,
    PromptDetails,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)
from gateway.http.errors import Problem
from gateway.http.objects import Isthmus
from gateway.http.render import plain
from gateway.http.tools.items import call_id, tools_of
from gateway.tools.calls import Arguments, Call, Called, CallReader, Event, Text, split

DONE = b"data: [DONE]\n\n"


class ChatChunks:
    """The chunks of one completion. `created` is in seconds of Unix time."""

    def __init__(
        self, name: str, created: int, model: str, with_usage: bool, tools: message_pb2.ToolUse | None = None
    ) -> None:
        self._name = name
        self._reader = CallReader(tools)
        self._calls = 0
        self._empty = ChatCompletionChunk(
            id=name, created=created, model=model, choices=[], usage=None if with_usage else UNSET
        )
        self._sent: list[str] = []

    def begun(self) -> Iterator[bytes]:
        """The turn is durable."""
        yield self._chunk(ChunkChoice(Delta(role="assistant", content="")))

    def delta(self, text: str, logprobs: Iterable[message_pb2.TokenLogprob] = ()) -> Iterator[bytes]:
        """More of the answer."""
        self._sent.append(text)
        deltas = [delta for event in self._reader.feed(text) for delta in self._deltas(event)]
        told = logprobs_of(logprobs)
        if told is not None:
            # Those of a piece whose text is held back come with none.
            first = deltas.pop(0) if deltas else Delta(content="")
            yield self._chunk(ChunkChoice(first, logprobs=told))
        for delta in deltas:
            yield self._chunk(ChunkChoice(delta))

    def done(self, turn: turn_pb2.Turn) -> Iterator[bytes]:
        """The answer is durable; what of it was not streamed yet comes as one last piece."""
        sent = "".join(self._sent)
        if turn.output_text.startswith(sent):
            yield from self.delta(turn.output_text[len(sent) :])
        for event in self._reader.finish():
            for delta in self._deltas(event):
                yield self._chunk(ChunkChoice(delta))
        yield self._chunk(ChunkChoice(Delta(), finish_reason=finish_reason(turn)), isthmus_of(turn))
        if self._empty.usage is None:
            yield _encode(msgspec.structs.replace(self._empty, usage=usage(turn.receipt.tokens)))
        yield DONE

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """There is no answer."""
        yield _encode(problem.body)

    def _deltas(self, event: Event) -> Iterator[Delta]:
        match event:
            case Text(text):
                yield Delta(content=text)
            case Called(name):
                begun = FunctionDelta(name, "")
                call = ToolCallDelta(self._calls, begun, _call_id(self._name, self._calls), "function")
                self._calls += 1
                yield Delta(tool_calls=[call])
            case Arguments(text):
                yield Delta(tool_calls=[ToolCallDelta(self._calls - 1, FunctionDelta(arguments=text))])

    def _chunk(self, choice: ChunkChoice, isthmus: Isthmus | msgspec.UnsetType = UNSET) -> bytes:
        return _encode(msgspec.structs.replace(self._empty, choices=[choice], isthmus=isthmus))


def completion(name: str, turn: turn_pb2.Turn, logprobs: Iterable[message_pb2.TokenLogprob]) -> ChatCompletion:
    """The whole completion of a turn that is done."""
    message = answer(name, turn)
    return ChatCompletion(
        id=name,
        created=turn.create_time.seconds,
        model=turn.receipt.model or turn.model,
        choices=[Choice(message, finish_reason(turn), logprobs_of(logprobs))],
        usage=usage(turn.receipt.tokens),
        isthmus=isthmus_of(turn),
    )


def answer(name: str, turn: turn_pb2.Turn) -> AssistantMessage:
    """The answer as a message; its calls are counted from 0 on, whatever stands between them."""
    parts = split(turn.output_text, tools_of(turn.params))
    content = "".join(part for part in parts if isinstance(part, str))
    calls = [part for part in parts if isinstance(part, Call)]
    if not calls:
        return AssistantMessage(content)
    made = [ToolCall(_call_id(name, at), Function(call.name, call.arguments)) for at, call in enumerate(calls)]
    return AssistantMessage(content or None, tool_calls=made)


def finish_reason(turn: turn_pb2.Turn) -> FinishReason:
    """Why the answer ends."""
    if turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH:
        return "length"
    parts = split(turn.output_text, tools_of(turn.params))
    return "tool_calls" if any(isinstance(part, Call) for part in parts) else "stop"


def usage(tokens: turn_pb2.TokenCounts) -> ChatUsage:
    """OpenAI's counts: the whole window is the prompt, and cached is what the engine itself says it found."""
    return ChatUsage(
        prompt_tokens=tokens.window_tokens,
        completion_tokens=tokens.output_tokens,
        total_tokens=tokens.window_tokens + tokens.output_tokens,
        prompt_tokens_details=PromptDetails(tokens.cached_tokens),
    )


def logprobs_of(tokens: Iterable[message_pb2.TokenLogprob]) -> Logprobs | None:
    """OpenAI's list of them, None for none."""
    content = [
        TokenLogprob(
            *_shown(token.token), token.logprob, [Likely(*_shown(each.token), each.logprob) for each in token.likeliest]
        )
        for token in tokens
    ]
    return Logprobs(content) if content else None


def isthmus_of(turn: turn_pb2.Turn) -> Isthmus:
    """What the mesh adds."""
    return Isthmus(turn.name, turn.request_id, turn.attempt, plain(turn.receipt))


def _call_id(name: str, index: int) -> str:
    session, _, turn = name.removeprefix("chatcmpl-").rpartition("_")
    return call_id(session, int(turn), index)


def _shown(token: bytes) -> tuple[str, list[int]]:
    return token.decode(errors="replace"), list(token)


def _encode(value: msgspec.Struct) -> bytes:
    """One server-sent event. JSON as msgspec writes it has no line breaks."""
    return b"data: %b\n\n" % msgspec.json.encode(value)
