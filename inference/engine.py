"""What an engine is: token ids in, token ids out, one at a time in a continuous batch.

An engine knows nothing of sessions, templates or text. A variant lives in `inference/engines`, is named in ENGINES, and
is imported only when it is chosen: one that is not used costs no import.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.model_files import ModelFiles
from inference.tokenizer import TokenIds, Tokenizer
from inference.windows import Point
from services.config import AnthropicSettings, InferenceSettings, OpenAISettings, VllmSettings
from services.errors import IsthmusError

ENGINES: Final[Mapping[str, str]] = {
    "anthropic": "inference.engines.anthropic:AnthropicEngine",
    "local": "inference.engines.local:LocalEngine",
    "openai": "inference.engines.openai:OpenAIEngine",
    "openai-chat": "inference.engines.openai_chat:OpenAIChatEngine",
    "scripted": "inference.engines.scripted:ScriptedEngine",
    "vllm": "inference.engines.vllm:VllmEngine",
}

# Those that take conversations alone: every request has its price, and none is made to warm up.
_CONVERSATIONAL: Final = frozenset({"anthropic", "openai-chat"})
_ELSEWHERE: Final = _CONVERSATIONAL | {"openai"}

_NO_TOKENS: Final[TokenIds] = np.zeros(0, dtype=np.int32)
_VLLM_DEFAULTS: Final = VllmSettings()
_OPENAI_DEFAULTS: Final = OpenAISettings()
_ANTHROPIC_DEFAULTS: Final = AnthropicSettings()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None is the model's default. A seed makes the reply repeatable where the engine can.

    `logprobs` asks for each token's, with so many alternatives. An engine's `samples` names the optional ones that it
    takes; the others never reach it.
    """

    output_tokens_max: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logprobs: int | None = None
    structured_output: message_pb2.StructuredOutput | None = None
    tools: message_pb2.ToolUse | None = None
    # Before so many, no token that would end the reply is drawn.
    output_tokens_min: int = 0

    def behind(self, tokens: int) -> Sampling:
        """How to go on where so many of the reply's tokens are there already."""
        least = max(0, self.output_tokens_min - tokens)
        return replace(self, output_tokens_max=self.output_tokens_max - tokens, output_tokens_min=least)


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt: the window's ids and the reply's header after them.

    `points` are places on the window's digest chain, the window's end first: who caches by prefix may use them as
    keys. `cache_salt` keeps apart what must not share a cache. `emitted` are the reply's tokens that another replica
    has made: they follow the header, and the reply goes on behind them. `session` names whose window it is, for engines
    that keep sessions open; empty for none. `adapter` is one of the engine's `adapters`; empty for the model itself.
    """

    window: TokenIds
    header: TokenIds
    points: tuple[Point, ...]
    cache_salt: str
    sampling: Sampling
    emitted: TokenIds = field(default_factory=lambda: _NO_TOKENS)
    session: str = ""
    adapter: str = ""
    priority: int = 0

    @property
    def prompt(self) -> TokenIds:
        """All that the engine reads before it samples."""
        return np.concatenate([self.window, self.header, self.emitted])


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The next tokens, without the end-of-reply token; `finish_reason` is set on the last one.

    `cached_tokens` are prompt tokens found in the KV cache, None where the engine does not know; all but the new ones
    where the session was `resident`, open in the engine. `logprobs` has one for each token, where the request asks.
    `limits` comes with the first tokens, from a provider that tells what it still takes.
    """

    token_ids: tuple[int, ...]
    finish_reason: turn_pb2.FinishReason.ValueType = turn_pb2.FINISH_REASON_UNSPECIFIED
    cached_tokens: int | None = None
    resident: bool = False
    logprobs: tuple[message_pb2.TokenLogprob, ...] = ()
    limits: inference_service_pb2.ProviderLimits | None = None


class Engine(Protocol):
    """A loaded model. `context_tokens_max` bounds prompt and reply together.

    `adapters` may be asked for as models. `samples` are the fields of Sampling beyond length, temperature, top_p and
    seed that the engine takes.
    """

    model: str
    context_tokens_max: int
    adapters: tuple[str, ...]
    samples: frozenset[str]

    @property
    def running(self) -> int:
        """Requests that it works on now."""

    @property
    def is_loading(self) -> bool:
        """Whether it starts, at first or again: it makes no steps then."""

    async def start(self) -> None:
        """Loads the model; returns when the first token of a request would come at full speed."""

    async def stop(self) -> None:
        """Frees everything. Requests that still run fail."""

    @property
    def steps(self) -> int:
        """Grows while it works: one with requests whose number stands still is stuck."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """The reply as it is made. Closing the generator ends the request and frees its place in the batch.

        Raises INVALID_FIELD for what the model cannot do, ENGINE_FAILED where the engine failed on this request, and
        UPSTREAM_UNAVAILABLE where it went away: the request is as good at another replica.
        """

    async def forget(self, session: str) -> int:
        """Closes what is open of a session; the tokens that it had. What a prefix cache has lies under no name."""


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every engine is made from."""

    settings: InferenceSettings
    files: ModelFiles
    tokenizer: Tokenizer
    vllm: VllmSettings = _VLLM_DEFAULTS
    openai: OpenAISettings = _OPENAI_DEFAULTS
    anthropic: AnthropicSettings = _ANTHROPIC_DEFAULTS


def create_engine(context: EngineContext) -> Engine:
    """The engine that the settings name; raises ValueError for an unknown name."""
    name, _, _ = context.settings.engine.partition(":")
    if name not in ENGINES:
        raise ValueError(f"inference.engine: {name!r} is unknown; expected one of {', '.join(sorted(ENGINES))}")
    module, _, variant = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), variant)(context)
    return engine


def is_elsewhere(engine: str) -> bool:
    """Whether the engine of this name is somebody else's server: it has a bound on silence and is not ours to watch."""
    return engine.partition(":")[0] in _ELSEWHERE


def is_conversational(engine: str) -> bool:
    """Whether the engine of this name takes conversations alone, each at its price."""
    return engine.partition(":")[0] in _CONVERSATIONAL


def engine_failed(message: str) -> IsthmusError:
    """The error of a request on which the engine itself failed."""
    return IsthmusError(errors_pb2.ERROR_REASON_ENGINE_FAILED, message)
