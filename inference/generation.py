"""One reply: the window is assembled, a place in the batch awaited, and the engine's tokens become text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.session.v1 import deletion_pb2, message_pb2, turn_pb2

from inference.admission import Admission, Stay
from inference.assembly import Assembled, WindowAssembler, WindowTooLong, reply_digest
from inference.begun import Begun, take_over
from inference.engine import Engine, EngineRequest, Sampling
from inference.merging import merging
from inference.metrics import InferenceMetrics
from inference.template import ChatTemplate
from inference.tokenizer import Tokenizer
from inference.windows import Reply, WindowCache
from services.config import InferenceSettings
from services.errors import InvalidField, IsthmusError
from services.telemetry import HOP, tracer

Erasure: TypeAlias = deletion_pb2.DeletionReceipt.Erasure

ENGINE_HOP: Final = "inference.engine"
# Sampling parameters that every engine takes, and those that it says.
_ALWAYS: Final = ("temperature", "top_p", "seed")
_SOMETIMES: Final = (
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logprobs",
    "structured_output",
    "tools",
)


@dataclass(slots=True)
class _Output:
    """The reply so far, what another replica has begun of it included; times are seconds after the engine took it."""

    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finish_reason: turn_pb2.FinishReason.ValueType = turn_pb2.FINISH_REASON_UNSPECIFIED
    cached_tokens: int | None = None
    resident: bool = False
    first_s: float | None = None
    last_s: float = 0.0


class Generator:
    """Replies of one replica, as many at a time as are admitted."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        assembler: WindowAssembler,
        cache: WindowCache,
        settings: InferenceSettings,
        replica: str,
        admission: Admission,
        metrics: InferenceMetrics,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self._assembler = assembler
        self._cache = cache
        self._admission = admission
        self._metrics = metrics
        self._excess_factor = settings.window_excess_factor_max
        self._delta_outputs_count_max = settings.delta_outputs_count_max
        self._replica = replica
        # A quarter of a small context at most, so that the window keeps most of it.
        self.output_tokens_default: Final = min(settings.max_output_tokens_default, engine.context_tokens_max // 4)

    @property
    def load(self) -> int:
        """Requests in work, those that wait included."""
        return self._admission.queue.accepted

    async def generate(self, request: contract.GenerateRequest) -> AsyncGenerator[contract.GenerateResponse, None]:
        """One `started`, `delta`s, one `finished`. Closing it ends the work wherever it stands.

        What another replica has `emitted` is not said again; `finished` counts it as said here. Raises OVERLOADED,
        DEADLINE_EXCEEDED, WINDOW_OVERFLOW, ENGINE_FAILED, UPSTREAM_UNAVAILABLE, and what assembling the window raises.
        """
        with self._metrics.request(self._model(request)) as measured, self._admission.accept(request.priority) as stay:
            sampling = self._sampling(request.params)
            begun = await self._begun(request)
            assembled = await self._assemble(request, sampling, stay)
            started = self._started(request, assembled)
            held_tokens = started.window_tokens + sampling.output_tokens_max
            async with stay.running(started.new_tokens + len(begun.ids), held_tokens):
                self._metrics.began(measured, stay.waited_s)
                output = _Output([begun.text], begun.ids.tolist())
                running = self._run(request, assembled, sampling, begun, output, stay)
                async with merging(running, self._delta_outputs_count_max) as deltas:
                    yield contract.GenerateResponse(started=started)
                    async for delta in deltas:
                        measured.delta()
                        yield contract.GenerateResponse(delta=delta)
            self._remember(request, output)
            finished = _finished(output, assembled, stay.waited_s * 1000)
            self._metrics.finished(measured, started, finished, len(begun.ids))
            yield contract.GenerateResponse(finished=finished)

    async def forget(self, tenant: str, session: str) -> list[Erasure]:
        """Drops what is held of a session: its window, and what the engine keeps open of it."""
        size = self._cache.forget(tenant, session)
        tokens = await self._engine.forget(_session_key(tenant, session))
        held = [Erasure(place=self._replica, kind="window", count=1, bytes=size)] if size else []
        return [*held, Erasure(place=self._replica, kind="resident", count=tokens)] if tokens else held

    async def _run(
        self,
        request: contract.GenerateRequest,
        assembled: Assembled,
        sampling: Sampling,
        begun: Begun,
        output: _Output,
        stay: Stay,
    ) -> AsyncGenerator[contract.GenerateResponse.Delta, None]:
        detokenizer = begun.detokenizer
        output.finish_reason = begun.finish_reason(sampling.output_tokens_max)
        text = begun.owed + (detokenizer.finish() if output.finish_reason else "")
        if text:
            output.text.append(text)
            yield contract.GenerateResponse.Delta(text=text, is_last=bool(output.finish_reason))
        if output.finish_reason:
            return
        prompt = EngineRequest(
            window=assembled.ids,
            header=self._template.reply_header,
            points=assembled.points,
            cache_salt=request.tenant,
            sampling=sampling.behind(begun.tokens),
            emitted=begun.ids,
            session=_session_key(request.tenant, request.session),
            adapter=request.model if request.model in self._engine.adapters else "",
            priority=request.priority,
        )
        started = time.perf_counter()
        span = tracer.start_span("generate", attributes={HOP: ENGINE_HOP, "gen_ai.request.model": self._model(request)})
        try:
            async with aclosing(stay.outputs(self._engine.generate(prompt))) as outputs:
                async for each in outputs:
                    output.last_s = time.perf_counter() - started
                    output.first_s = output.first_s or output.last_s
                    output.ids += each.token_ids
                    output.cached_tokens, output.resident = each.cached_tokens, each.resident
                    output.finish_reason = each.finish_reason
                    text = detokenizer.push(each.token_ids)
                    if detokenizer.stopped:
                        output.finish_reason = turn_pb2.FINISH_REASON_STOP
                    if output.finish_reason:
                        text += detokenizer.finish()
                    output.text.append(text)
                    if each.token_ids or text:
                        yield contract.GenerateResponse.Delta(
                            text=text,
                            token_ids=each.token_ids,
                            logprobs=each.logprobs,
                            limits=each.limits,
                            is_last=bool(output.finish_reason),
                        )
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
        given = {name: getattr(params, name) for name in (*_ALWAYS, *_SOMETIMES) if params.HasField(name)}
        if not _is_forced(params) and "tools" not in self._engine.samples:
            # The window says what may be called, and the model may keep to it by itself.
            given.pop("tools", None)
        for name in _SOMETIMES:
            if name in given and name not in self._engine.samples:
                raise InvalidField(f"params.{name}", f"{self._engine.model} does not take it; expected it unset")
        return Sampling(output_tokens_max=tokens_max, output_tokens_min=self._tokens_min(params, tokens_max), **given)

    def _tokens_min(self, params: message_pb2.SamplingParams, tokens_max: int) -> int:
        name = "ignore_eos" if params.ignore_eos else "min_output_tokens"
        tokens_min = tokens_max if params.ignore_eos else params.min_output_tokens
        if tokens_min > tokens_max:
            raise InvalidField(
                f"params.{name}", f"is {tokens_min}, expected at most {tokens_max}, the most there may be"
            )
        if tokens_min and "min_output_tokens" not in self._engine.samples:
            raise InvalidField(f"params.{name}", f"{self._engine.model} does not take it; expected it unset")
        return tokens_min

    async def _begun(self, request: contract.GenerateRequest) -> Begun:
        """The reply as far as another replica has brought it."""
        emitted, stop = request.emitted, request.params.stop
        if not request.HasField("emitted"):
            return take_over(emitted, self._tokenizer, stop)
        if request.params.HasField("structured_output") or _is_forced(request.params):
            raise InvalidField("emitted", "a form is kept to from a reply's first token on; expected the whole reply")
        return await asyncio.to_thread(take_over, emitted, self._tokenizer, stop)

    def _model(self, request: contract.GenerateRequest) -> str:
        return request.model or self._engine.model

    async def _assemble(self, request: contract.GenerateRequest, sampling: Sampling, stay: Stay) -> Assembled:
        """The window, if prompt and reply fit into the model's context together."""
        header = len(self._template.reply_header)
        room = self._engine.context_tokens_max - sampling.output_tokens_max - header
        try:
            assembled = await self._assembler.assemble(
                request.tenant, request.session, request.manifest, int(room * self._excess_factor), stay.pulling
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

    def _started(self, request: contract.GenerateRequest, assembled: Assembled) -> contract.GenerateResponse.Started:
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
            model=self._model(request),
        )

    def _remember(self, request: contract.GenerateRequest, output: _Output) -> None:
        """Keeps the reply's ids, unless a stop string cut the text that they stand for."""
        text = "".join(output.text)
        if text and self._tokenizer.decode(output.ids) == text:
            reply = Reply(reply_digest(text), np.asarray(output.ids, dtype=np.int32))
            self._cache.remember_reply(request.tenant, request.session, reply)


def _is_forced(params: message_pb2.SamplingParams) -> bool:
    """Whether the reply has to be calls."""
    return params.tools.choice == message_pb2.ToolUse.CHOICE_REQUIRED


def _finished(output: _Output, assembled: Assembled, queue_ms: float) -> contract.GenerateResponse.Finished:
    return contract.GenerateResponse.Finished(
        finish_reason=output.finish_reason,
        output_tokens=len(output.ids),
        cached_tokens=output.cached_tokens,
        queue_ms=queue_ms,
        engine_ttft_ms=(output.first_s or 0.0) * 1000,
        engine_ms=output.last_s * 1000,
        counts=assembled.work.counts,
        resident=output.resident,
    )


def _session_key(tenant: str, session: str) -> str:
    """The session as the engine names it."""
    return f"{tenant}/{session}"
