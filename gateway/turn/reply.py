"""A reply as replicas stream it: handed over to one that answers, gone on with by another where that one is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias

import grpc.aio
from isthmus.context.v1 import context_service_pb2, summary_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from gateway.models.placements import placement
from gateway.models.replicas import Replica, Replicas
from gateway.retry import is_transient, retrying
from gateway.turn.calls import Errand, Reply
from gateway.turn.driven import Stop
from gateway.turn.emitted import Emitted
from gateway.turn.receipt import Ledger, Leg
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error

# In quotes, since grpc's own classes take no parameters when they run.
GenerateCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[inference_service_pb2.GenerateRequest, inference_service_pb2.GenerateResponse]"
)
Piece = context_service_pb2.OutputPiece
_OPEN: Final = turn_pb2.FINISH_REASON_UNSPECIFIED


class ReplyStream:
    """`begin` until it answers, then `events` once, `reply` after that, and `close` in any case."""

    def __init__(
        self, errand: Errand, replicas: Replicas, settings: GatewaySettings, ledger: Ledger, stop: Stop
    ) -> None:
        self._errand = errand
        self._replicas = replicas
        self._settings = settings
        self._ledger = ledger
        self._stop = stop
        self._manifest = window_pb2.Manifest()
        self._replica: Replica | None = None
        self._call: GenerateCall | None = None
        self._first: inference_service_pb2.GenerateResponse | None = None
        self._emitted = Emitted()
        self._continuations = 0
        self._size_bytes = 0
        self._finish_reason = _OPEN
        self._counts: tuple[summary_pb2.TokenCount, ...] = ()
        self.finished_hops: Sequence[turn_pb2.Hop] = ()

    def resume(self, said: Iterable[Piece]) -> None:
        """Before `begin`: the reply goes on behind what another driver had it say."""
        for piece in said:
            self._fits(piece.text)
            delta = inference_service_pb2.GenerateResponse.Delta(text=piece.text, token_ids=piece.token_ids)
            self._emitted.add(delta, piece.tokenizer)
        if self._emitted.given_out and self._has_form:
            message = "the turn's driver was lost, and a reply that is kept to a form is not gone on with"
            raise UpstreamUnavailable(message)

    async def begin(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        """Hands the window to a replica and waits for its first text: the hops of that.

        A replica that goes away before that is passed over for the next one on the ring, for
        `gateway.upstream_wait_ms_max`; one that is full at once, as long as there are others.
        """
        self._manifest = manifest
        seconds = min(self._settings.upstream_wait_ms_max / 1000, self._errand.until - time.monotonic())
        return await retrying(self._hand_over, self._settings, seconds)

    async def events(self) -> AsyncGenerator[Piece | turn_pb2.Hop, None]:
        """The reply as it comes, delta by delta, with the hops of those replicas that go on with it.

        A replica that is lost is replaced `gateway.continuations_count_max` times: the next one goes on behind what
        went out. Texts over `gateway.reply_bytes_max` end the reply as a length limit does.
        """
        while True:
            try:
                async with aclosing(self._deltas()) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except IsthmusError as error:
                if not is_transient(error):
                    raise
                if self._finish_reason != _OPEN:
                    return
                if not self._can_go_on():
                    raise
                broken = error
            for hop in await self._go_on(broken):
                yield hop

    def reply(self) -> Reply:
        """The whole reply, once `events` has ended."""
        return Reply(self._emitted.text, self._finish_reason, self._counts)

    def close(self) -> None:
        """Ends the replica's work, if it still goes on, and no longer counts as its load."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._replica is not None:
            self._replicas.release(self._replica)
            self._replica = None

    async def _deltas(self) -> AsyncGenerator[Piece, None]:
        """What one replica says. Tokens that are no whole character yet come without a text."""
        replica, event = self._replica, self._first
        assert replica is not None
        while event is not None:
            kind = event.WhichOneof("event")
            if kind == "finished":
                self._finish(event)
            elif kind == "delta":
                delta = event.delta
                self._ledger.streamed(time.monotonic(), event.ByteSize(), has_text=bool(delta.text))
                if not self._fits(delta.text):
                    self._finish_reason = turn_pb2.FINISH_REASON_LENGTH
                    return
                self._emitted.add(delta, replica.tokenizer)
                yield Piece(
                    text=delta.text, logprobs=delta.logprobs, token_ids=delta.token_ids, tokenizer=replica.tokenizer
                )
            event = await self._read()
        if self._finish_reason == _OPEN:
            raise UpstreamUnavailable("the replica ended its stream before the reply was finished")

    def _can_go_on(self) -> bool:
        """Whether another replica may take the place of one that was lost."""
        # What is kept to a form is kept to it from its first token on, by one engine.
        has_form = self._emitted.given_out and self._has_form
        is_left = self._continuations < self._settings.continuations_count_max
        return is_left and not has_form and self._errand.until > time.monotonic()

    @property
    def _has_form(self) -> bool:
        return self._errand.request.params.HasField("structured_output")

    async def _go_on(self, error: IsthmusError) -> Sequence[turn_pb2.Hop]:
        self._continuations += 1
        if self._replica is not None:
            self._replicas.suspect(self._replica)
        if self._emitted.given_out:
            self._ledger.lost(time.monotonic(), self._emitted.tokens, error.reason)
        else:
            self._emitted = Emitted()
        return await self.begin(self._manifest)

    async def _hand_over(self) -> Sequence[turn_pb2.Hop]:
        """Starts the reply, or what is left of it, at a replica that has room for it."""
        full: set[str] = set()
        errand = self._errand
        while True:
            self._stop.check()
            self.close()
            self._replica = self._replicas.pick(errand.tenant, errand.session, errand.limits.name, full)
            try:
                return await self._start(self._replica)
            except IsthmusError as error:
                if is_transient(error):
                    self._replicas.suspect(self._replica)
                if error.reason != errors_pb2.ERROR_REASON_OVERLOADED:
                    raise
                full.add(self._replica.member_id)
                if self._replicas.is_other(errand.limits.name, full):
                    continue
                if self._emitted.given_out:
                    # To wait for a place costs the client a pause, to fail now the whole reply.
                    raise UpstreamUnavailable(error.message, error.retry_after_ms) from None
                raise

    async def _start(self, replica: Replica) -> Sequence[turn_pb2.Hop]:
        request = self._request()
        started_at = time.monotonic()
        self._call = replica.stub.Generate(request, timeout=max(0.0, self._errand.until - started_at))
        event = await self._read()
        if event is None or event.WhichOneof("event") != "started":
            raise UpstreamUnavailable("the replica ended its stream before it had the window")
        leg = Leg(time.monotonic() - started_at, request.ByteSize(), event.ByteSize())
        self._replicas.served(self._errand.tenant, self._errand.session, replica)
        self._first = await self._read()
        placed = placement(replica.choice, self._manifest, event.started, self._errand.limits.overhead_tokens)
        return self._ledger.started(leg, event.started, placed)

    def _request(self) -> inference_service_pb2.GenerateRequest:
        request = self._errand.request
        params = message_pb2.SamplingParams()
        params.CopyFrom(request.params)
        params.max_output_tokens = self._errand.budget.output_tokens_max
        return inference_service_pb2.GenerateRequest(
            tenant=self._errand.tenant,
            session=self._errand.session,
            manifest=self._manifest,
            params=params,
            model=self._errand.limits.name,
            priority=request.priority,
            emitted=self._emitted.message() if self._emitted.given_out else None,
        )

    async def _read(self) -> inference_service_pb2.GenerateResponse | None:
        """The stream's next message, None at its end; the stop's reason once the turn was stopped."""
        self._stop.check()
        call = self._call
        assert call is not None
        with self._stop.cancelling(call.cancel):
            try:
                event = await call.read()
            except grpc.aio.AioRpcError as error:
                self._stop.check()
                raise from_rpc_error(error) from None
            except asyncio.CancelledError:
                # A stop cancels the call, a caller that has gone cancels this task: the latter has to be let through.
                if not _being_cancelled():
                    self._stop.check()
                raise
        return event if isinstance(event, inference_service_pb2.GenerateResponse) else None

    def _finish(self, event: inference_service_pb2.GenerateResponse) -> None:
        self._finish_reason = event.finished.finish_reason
        self._counts = tuple(event.finished.counts)
        self.finished_hops = self._ledger.finished(event.ByteSize(), event.finished)

    def _fits(self, text: str) -> bool:
        self._size_bytes += len(text.encode())
        return self._size_bytes <= self._settings.reply_bytes_max


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
