"""What engines share that are somebody else's server: one streamed answer a request, made ours event by event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from isthmus.session.v1 import message_pb2, turn_pb2

from inference.conversation import Echo
from inference.engine import EngineContext, EngineOutput
from inference.engines.provider import Provider

Event: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What one event says; `cached_tokens` where it tells them."""

    ids: tuple[int, ...] = ()
    finish: turn_pb2.FinishReason.ValueType = turn_pb2.FINISH_REASON_UNSPECIFIED
    cached_tokens: int | None = None
    logprobs: tuple[message_pb2.TokenLogprob, ...] = ()


class RemoteEngine:
    """Nothing is loaded, kept or forgotten here. Each engine says what it sends and how its events are read."""

    def __init__(self, context: EngineContext, provider: Provider) -> None:
        self.context_tokens_max = context.settings.context_tokens_max or context.files.vocabulary.context_tokens_max
        self.adapters: tuple[str, ...] = ()
        self.is_loading = False
        self.running = 0
        self._tokenizer = context.tokenizer
        self._provider = provider

    @property
    def steps(self) -> int:
        return self._provider.steps

    async def stop(self) -> None:
        await self._provider.aclose()

    async def forget(self, session: str) -> int:
        return 0

    async def _outputs(
        self, path: str, body: Event, read: Callable[[Event], Said], last: Callable[[], tuple[int, ...]] = tuple
    ) -> AsyncGenerator[EngineOutput, None]:
        """The answer as its events come; `last` are the ids that were held back until its end. Raises as `Provider`."""
        self.running += 1
        try:
            async with self._provider.stream(path, body) as answer:
                said, limits = Said(), answer.limits
                async for event in answer.events:
                    before, said = said, read(event)
                    cached = before.cached_tokens if said.cached_tokens is None else said.cached_tokens
                    said = replace(said, cached_tokens=cached, finish=said.finish or before.finish)
                    if said.ids:
                        yield EngineOutput(said.ids, cached_tokens=cached, logprobs=said.logprobs, limits=limits)
                        limits = None
                if not said.finish:
                    raise self._provider.broken_off()
                yield EngineOutput(last(), said.finish, said.cached_tokens)
        finally:
            self.running -= 1

    def _texts(
        self, path: str, body: Event, echo: Echo, read: Callable[[Event], tuple[str, Said]]
    ) -> AsyncGenerator[EngineOutput, None]:
        """The answer of a provider that tells text alone, encoded here without what it repeats of the beginning."""

        def encoded(event: Event) -> Said:
            text, said = read(event)
            return replace(said, ids=self._encoded(echo.push(text)))

        return self._outputs(path, body, encoded, lambda: self._encoded(echo.finish()))

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text).tolist()) if text else ()
