"""A replica's stream of one reply: handed over to whichever replica answers, then read to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TypeAlias

import grpc.aio
from isthmus.context.v1 import summary_pb2, window_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from gateway.driven import Stop
from gateway.receipt import Ledger, Leg
from gateway.replicas import Replica, Replicas
from gateway.retry import is_transient, retrying
from gateway.turn_calls import Errand, Reply
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error

# In quotes, since grpc's own classes take no parameters when they run.
GenerateCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[inference_service_pb2.GenerateRequest, inference_service_pb2.GenerateResponse]"
)


class ReplyStream:
    """`begin` until it answers, then `texts` once, `reply` after that, and `close` in any case."""

    def __init__(
        self, errand: Errand, replicas: Replicas, settings: GatewaySettings, ledger: Ledger, stop: Stop
    ) -> None:
        self._errand = errand
        self._replicas = replicas
        self._settings = settings
        self._ledger = ledger
        self._stop = stop
        self._replica: Replica | None = None
        self._call: GenerateCall | None = None
        self._first: inference_service_pb2.GenerateResponse | None = None
        self._pieces: list[str] = []
        self._size_bytes = 0
        self._finish_reason = turn_pb2.FINISH_REASON_UNSPECIFIED
        self._counts: tuple[summary_pb2.TokenCount, ...] = ()
        self.finished_hops: Sequence[turn_pb2.Hop] = ()

    @property
    def text_sent(self) -> bool:
        """Whether any text was given out, so that another reply could not take this one's place."""
        return bool(self._pieces)

    async def begin(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        """Hands the window to a replica and waits for its first text: the hops of that.

        A replica that goes away before that is passed over for the next one on the ring, for
        `gateway.upstream_wait_ms_max`.
        """
        seconds = min(self._settings.upstream_wait_ms_max / 1000, self._errand.until - time.monotonic())
        return await retrying(lambda: self._hand_over(manifest), self._settings, seconds)

    async def texts(self) -> AsyncGenerator[str, None]:
        """The reply's text as it comes. Texts over `gateway.reply_bytes_max` end it as a length limit does."""
        event = self._first
        while event is not None:
            kind = event.WhichOneof("event")
            if kind == "finished":
                self._finish(event)
            elif kind == "delta":
                self._ledger.streamed(time.monotonic(), event.ByteSize())
                if not self._fits(event.delta.text):
                    self._finish_reason = turn_pb2.FINISH_REASON_LENGTH
                    return
                if event.delta.text:
                    self._pieces.append(event.delta.text)
                    yield event.delta.text
            event = await self._read()
        if self._finish_reason == turn_pb2.FINISH_REASON_UNSPECIFIED:
            raise UpstreamUnavailable("the replica ended its stream before the reply was finished")

    def reply(self) -> Reply:
        """The whole reply, once `texts` has ended."""
        return Reply("".join(self._pieces), self._finish_reason, self._counts)

    def close(self) -> None:
        """Ends the replica's work, if it still goes on, and no longer counts as its load."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._replica is not None:
            self._replicas.release(self._replica)
            self._replica = None

    async def _hand_over(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        self._stop.check()
        self.close()
        request = self._request(manifest)
        self._replica = self._replicas.pick(self._errand.tenant, self._errand.session, self._errand.limits.name)
        started_at = time.monotonic()
        self._call = self._replica.stub.Generate(request, timeout=max(0.0, self._errand.until - started_at))
        try:
            event = await self._read()
            if event is None or event.WhichOneof("event") != "started":
                raise UpstreamUnavailable("the replica ended its stream before it had the window")
            leg = Leg(time.monotonic() - started_at, request.ByteSize(), event.ByteSize())
            self._first = await self._read()
        except IsthmusError as error:
            if is_transient(error):
                self._replicas.suspect(self._replica)
            raise
        return self._ledger.started(leg, event.started)

    def _request(self, manifest: window_pb2.Manifest) -> inference_service_pb2.GenerateRequest:
        params = message_pb2.SamplingParams()
        params.CopyFrom(self._errand.request.params)
        params.max_output_tokens = self._errand.budget.output_tokens_max
        return inference_service_pb2.GenerateRequest(
            tenant=self._errand.tenant,
            session=self._errand.session,
            manifest=manifest,
            params=params,
            model=self._errand.limits.name,
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
