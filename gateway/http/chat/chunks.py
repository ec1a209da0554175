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
    Likely,
    Logprobs,
    PromptDetails,
    TokenLogprob,
)
from gateway.http.errors import Problem
from gateway.http.objects import Isthmus
from gateway.http.render import plain

DONE = b"data: [DONE]\n\n"


class ChatChunks:
    """The chunks of one completion. `created` is in seconds of Unix time."""

    def __init__(self, name: str, created: int, model: str, with_usage: bool) -> None:
        self._empty = ChatCompletionChunk(
            id=name, created=created, model=model, choices=[], usage=None if with_usage else UNSET
        )
        self._sent: list[str] = []

    def begun(self) -> Iterator[bytes]:
        """The turn is durable."""
        yield self._chunk(ChunkChoice(Delta(role="assistant", content="")))

    def delta(self, text: str, logprobs: Iterable[message_pb2.TokenLogprob] = ()) -> Iterator[bytes]:
        """More of the answer."""
        told = logprobs_of(logprobs)
        if text or told is not None:
            self._sent.append(text)
            yield self._chunk(ChunkChoice(Delta(content=text), logprobs=told))

    def done(self, turn: turn_pb2.Turn) -> Iterator[bytes]:
        """The answer is durable; what of it was not streamed yet comes as one last piece."""
        sent = "".join(self._sent)
        if turn.output_text.startswith(sent):
            yield from self.delta(turn.output_text[len(sent) :])
        yield self._chunk(ChunkChoice(Delta(), finish_reason=finish_reason(turn)), isthmus_of(turn))
        if self._empty.usage is None:
            yield _encode(msgspec.structs.replace(self._empty, usage=usage(turn.receipt.tokens)))
        yield DONE

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """There is no answer."""
        yield _encode(problem.body)

    def _chunk(self, choice: ChunkChoice, isthmus: Isthmus | msgspec.UnsetType = UNSET) -> bytes:
        return _encode(msgspec.structs.replace(self._empty, choices=[choice], isthmus=isthmus))


def completion(name: str, turn: turn_pb2.Turn, logprobs: Iterable[message_pb2.TokenLogprob]) -> ChatCompletion:
    """The whole completion of a turn that is done."""
    message = AssistantMessage(turn.output_text)
    return ChatCompletion(
        id=name,
        created=turn.create_time.seconds,
        model=turn.receipt.model or turn.model,
        choices=[Choice(message, finish_reason(turn), logprobs_of(logprobs))],
        usage=usage(turn.receipt.tokens),
        isthmus=isthmus_of(turn),
    )


def finish_reason(turn: turn_pb2.Turn) -> FinishReason:
    """Why the answer ends."""
    return "length" if turn.finish_reason == turn_pb2.FINISH_REASON_LENGTH else "stop"


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


def _shown(token: bytes) -> tuple[str, list[int]]:
    return token.decode(errors="replace"), list(token)


def _encode(value: msgspec.Struct) -> bytes:
    """One server-sent event. JSON as msgspec writes it has no line breaks."""
    return b"data: %b\n\n" % msgspec.json.encode(value)
