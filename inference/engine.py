"""What an engine is: token ids in, token ids out, one at a time in a continuous batch.

An engine knows nothing of sessions, templates or text. A variant lives in `inference/engines`, is named in ENGINES, and
is imported only when it is chosen: one that is not used costs no import.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from inference.model_files import ModelFiles
from inference.tokenizer import TokenIds, Tokenizer
from inference.windows import Point
from services.config import InferenceSettings
from services.errors import IsthmusError

ENGINES: Final[Mapping[str, str]] = {
    "local": "inference.engines.local:LocalEngine",
    "scripted": "inference.engines.scripted:ScriptedEngine",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None is the model's default. A seed makes the reply repeatable where the engine can."""

    output_tokens_max: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt: the window's ids and the reply's header after them.

    `points` are places on the window's digest chain, the window's end first: who caches by prefix may use them as
    keys. `cache_salt` keeps apart what must not share a cache.
    """

    window: TokenIds
    header: TokenIds
    points: tuple[Point, ...]
    cache_salt: str
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The next tokens, without the end-of-reply token; `finish_reason` is set on the last one.

    `cached_tokens` are prompt tokens found in the KV cache, None where the engine does not know.
    """

    token_ids: tuple[int, ...]
    finish_reason: turn_pb2.FinishReason.ValueType = turn_pb2.FINISH_REASON_UNSPECIFIED
    cached_tokens: int | None = None


class Engine(Protocol):
    """A loaded model. `context_tokens_max` bounds prompt and reply together."""

    model: str
    context_tokens_max: int

    @property
    def running(self) -> int:
        """Requests that it works on now."""

    async def start(self) -> None:
        """Loads the model; returns when the first token of a request would come at full speed."""

    async def stop(self) -> None:
        """Frees everything. Requests that still run fail."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """The reply as it is made. Closing the generator ends the request and frees its place in the batch."""


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every engine is made from."""

    settings: InferenceSettings
    files: ModelFiles
    tokenizer: Tokenizer


def create_engine(context: EngineContext) -> Engine:
    """The engine that the settings name; raises ValueError for an unknown name."""
    name = context.settings.engine
    if name not in ENGINES:
        raise ValueError(f"inference.engine: {name!r} is unknown; expected one of {', '.join(sorted(ENGINES))}")
    module, _, variant = ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), variant)(context)
    return engine


def engine_failed(message: str) -> IsthmusError:
    """The error of a request on which the engine itself failed."""
    return IsthmusError(errors_pb2.ERROR_REASON_ENGINE_FAILED, message)
