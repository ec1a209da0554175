"""One reply: the window is assembled, a place in the batch awaited, and the engine's tokens become text."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.session.v1 import deletion_pb2, message_pb2, turn_pb2

from inference.assembly import Assembled, WindowAssembler, WindowTooLong, reply_digest
from inference.detokenize import Detokenizer
from inference.engine import Engine, EngineRequest, Sampling
from inference.slots import Slots
from inference.template import ChatTemplate
from inference.tokenizer import Tokenizer
from inference.windows import Reply, WindowCache
from services.config import InferenceSettings
from services.errors import InvalidField, IsthmusError
from services.telemetry import HOP, tracer

ENGINE_HOP: Final = "inference.engine"


@dataclass(slots=True)
class _Output:
    """What the engine has said so far, and when: seconds after it took the request."""

    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finish_reason: turn_pb2.FinishReason.ValueType = turn_pb2.FINISH_REASON_UNSPECIFIED
    cached_tokens: int | None = None
    first_s: float | None = None
    last_s: float = 0.0


class Generator:
    """Replies of one replica, `Slots` at a time."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        assembler: WindowAssembler,
        cache: WindowCache,
        settings: InferenceSettings,
        replica: str,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self._assembler = assembler
        self._cache = cache
        self._slots = Slots(settings)
        self._excess_factor = settings.window_excess_factor_max
        self._replica = replica
        # A quarter of a small context at most, so that the window keeps most of it.
        self.output_tokens_default: Final = min(settings.max_output_tokens_default, engine.context_tokens_max // 4)

    async def generate(self, request: contract.GenerateRequest) -> AsyncGenerator[contract.GenerateResponse, None]:
        """One `started`, `delta`s, one `finished`. Closing it ends the work wherever it stands.

        Raises OVERLOADED, WINDOW_OVERFLOW, ENGINE_FAILED, and what assembling the window raises.
        """
        with self._slots.accept():
            sampling = self._sampling(request.params)
            assembled = await self._assemble(request, sampling)
            arrived = time.perf_counter()
            async with self._slots.engine():
                queue_ms = (time.perf_counter() - arrived) * 1000
                yield contract.GenerateResponse(started=self._started(assembled))
                output = _Output()
                async with aclosing(self._run(request, assembled, sampling, output)) as deltas:
                    async for delta in deltas:
                        yield contract.GenerateResponse(delta=delta)
            self._remember(request, output)
            yield contract.GenerateResponse(finished=_finished(output, assembled, queue_ms))

    def forget(self, tenant: str, session: str) -> list[deletion_pb2.DeletionReceipt.Erasure]:
        """Drops what is held of a session's window."""
        size = self._cache.forget(tenant, session)
        if not size:
            return []
        return [deletion_pb2.DeletionReceipt.Erasure(place=self._replica, kind="window", count=1, bytes=size)]

    async def _run(
        self, request: contract.GenerateRequest, assembled: Assembled, sampling: Sampling, output: _Output
    ) -> AsyncGenerator[contract.GenerateResponse.Delta, None]:
        prompt = EngineRequest(
            window=assembled.ids,
            header=self._template.reply_header,
            points=assembled.points,
            cache_salt=request.tenant,
            sampling=sampling,
        )
        detokenizer = Detokenizer(self._tokenizer, request.params.stop)
        started = time.perf_counter()
        span = tracer.start_span("generate", attributes={HOP: ENGINE_HOP, "gen_ai.request.model": self._engine.model})
        try:
            async with aclosing(self._engine.generate(prompt)) as outputs:
                async for each in outputs:
                    output.last_s = time.perf_counter() - started
                    output.first_s = output.first_s or output.last_s
                    output.ids += each.token_ids
                    output.cached_tokens = each.cached_tokens
                    output.finish_reason = each.finish_reason
                    text = detokenizer.push(each.token_ids)
                    if detokenizer.stopped:
                        output.finish_reason = turn_pb2.FINISH_REASON_STOP
                    if output.finish_reason:
                        text += detokenizer.finish()
                    output.text.append(text)
                    if each.token_ids or text:
                        yield contract.GenerateResponse.Delta(text=text, token_ids=each.token_ids)
                    if output.finish_reason:
                        return
        finally:
            span.set_attribute("gen_ai.usage.output_tokens", len(output.ids))
            span.end()

    def _sampling(self, params: message_pb2.SamplingParams) -> Sampling:
        tokens_max = params.max_output_tokens if params.HasField("max_output_tokens") else self.output_tokens_default
        room = self._engine.context_tokens_max - self._template.overhead_tokens
        if tokens_max >= room:
            raise InvalidField(
                "params.max_output_tokens",
                f"{tokens_max} leaves no room for the window; expected less than {room} for {self._engine.model}",
            )
        return Sampling(
            output_tokens_max=tokens_max,
            temperature=params.temperature if params.HasField("temperature") else None,
            top_p=params.top_p if params.HasField("top_p") else None,
            seed=params.seed if params.HasField("seed") else None,
        )

    async def _assemble(self, request: contract.GenerateRequest, sampling: Sampling) -> Assembled:
        """The window, if prompt and reply fit into the model's context together."""
        header = len(self._template.reply_header)
        room = self._engine.context_tokens_max - sampling.output_tokens_max - header
        try:
            assembled = await self._assembler.assemble(
                request.tenant, request.session, request.manifest, int(room * self._excess_factor)
            )
        except WindowTooLong as error:
            raise self._overflow(error.tokens, room) from None
        if len(assembled.ids) > room:
            raise self._overflow(len(assembled.ids), room)
        return assembled

    def _overflow(self, window_tokens: int, room: int) -> IsthmusError:
        """In the budget's terms: tokens of the items alone, so that both numbers lack the template's overhead."""
        frame = self._template.overhead_tokens - len(self._template.reply_header)
        tokens, tokens_max = window_tokens - frame, room - frame
        return IsthmusError(
            errors_pb2.ERROR_REASON_WINDOW_OVERFLOW,
            f"the window has {tokens} tokens; expected at most {tokens_max} beside the reply's",
            metadata={"tokens": str(tokens), "tokens_max": str(tokens_max)},
        )

    def _started(self, assembled: Assembled) -> contract.GenerateResponse.Started:
        work = assembled.work
        window_tokens = len(assembled.ids) + len(self._template.reply_header)
        reused = max(0, len(assembled.ids) - work.encoded_tokens)
        return contract.GenerateResponse.Started(
            window_tokens=window_tokens,
            new_tokens=window_tokens - reused,
            reused_tokens=reused,
            pulled_items=work.pulled_items,
            pulled_bytes=work.pulled_bytes,
            pull_ms=work.pull_ms,
            tokenize_ms=work.tokenize_ms,
            replica=self._replica,
            model=self._engine.model,
        )

    def _remember(self, request: contract.GenerateRequest, output: _Output) -> None:
        """Keeps the reply's ids, unless a stop string cut the text that they stand for."""
        text = "".join(output.text)
        if text and self._tokenizer.decode(output.ids) == text:
            reply = Reply(reply_digest(text), np.asarray(output.ids, dtype=np.int32))
            self._cache.remember_reply(request.tenant, request.session, reply)


def _finished(output: _Output, assembled: Assembled, queue_ms: float) -> contract.GenerateResponse.Finished:
    return contract.GenerateResponse.Finished(
        finish_reason=output.finish_reason,
        output_tokens=len(output.ids),
        cached_tokens=output.cached_tokens,
        queue_ms=queue_ms,
        engine_ttft_ms=(output.first_s or 0.0) * 1000,
        engine_ms=output.last_s * 1000,
        counts=assembled.work.counts,
    )
