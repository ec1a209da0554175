"""A reply as replicas stream it: handed over to one that answers, gone on with by another where that one is lost."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from isthmus.context.v1 import context_service_pb2, summary_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import message_pb2, turn_pb2

from gateway.models.placements import placement
from gateway.models.replicas import Replica, Replicas
from gateway.pools.outcome import is_settled
from gateway.retry import is_transient, retrying
from gateway.turn.attempt import Attempt, first_to_answer
from gateway.turn.calls import Errand, Reply
from gateway.turn.driven import Stop
from gateway.turn.emitted import Emitted
from gateway.turn.receipt import Ledger
from gateway.turn.tries import Tries, is_worth_waiting
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable

Piece = context_service_pb2.OutputPiece
# The label of a turn that says what it is for.
_TASK: Final = "task"
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
        self._attempt: Attempt | None = None
        self._tries = Tries(replicas.pools, settings.resilience.retry)
        self._emitted = Emitted()
        self._continuations = 0
        self._size_bytes = 0
        self._finish_reason = _OPEN
        self._counts: tuple[summary_pb2.TokenCount, ...] = ()
        self.finished_hops: Sequence[turn_pb2.Hop] = ()

    @property
    def has_begun(self) -> bool:
        """Whether any of it was given out, so that no other reply can take this one's place."""
        return self._emitted.given_out

    @property
    def output_tokens(self) -> int:
        """Tokens that it has by now, those that replicas before this one made among them."""
        return self._emitted.tokens

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
        `gateway.upstream_wait_ms_max`; one that is full at once, as long as there are others. Where a provider failed,
        the next pool is asked, within the budget of `gateway.resilience.retry`.
        """
        self._manifest = manifest
        self._tries.turn()
        seconds = min(self._settings.upstream_wait_ms_max / 1000, self._errand.until - time.monotonic())
        return await retrying(self._hand_over, self._settings, seconds, on=is_worth_waiting)

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
                if not is_transient(error) and not is_settled(error):
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
        if self._attempt is not None:
            self._attempt.close()
            self._attempt = None

    async def _deltas(self) -> AsyncGenerator[Piece, None]:
        """What one replica says. Tokens that are no whole character yet come without a text."""
        attempt = self._attempt
        assert attempt is not None
        replica, event = attempt.replica, attempt.first
        while event is not None:
            kind = event.WhichOneof("event")
            if kind == "finished":
                self._finish(event, replica)
            elif kind == "delta":
                delta = event.delta
                self._ledger.streamed(time.monotonic(), event.ByteSize(), has_text=bool(delta.text))
                if not self._fits(delta.text):
                    self._finish_reason = turn_pb2.FINISH_REASON_LENGTH
                    return
                if delta.is_last:
                    # First the end: a reply that is known to be whole needs no trip of its own ahead of the commit.
                    await self._read_end(attempt)
                self._emitted.add(delta, replica.tokenizer)
                yield Piece(
                    text=delta.text, logprobs=delta.logprobs, token_ids=delta.token_ids, tokenizer=replica.tokenizer
                )
                if delta.is_last:
                    return
            event = await self._read(attempt)
        if self._finish_reason == _OPEN:
            raise UpstreamUnavailable("the replica ended its stream before the reply was finished")

    async def _read(self, attempt: Attempt) -> inference_service_pb2.GenerateResponse | None:
        with self._stop.cancelling(attempt.cancel):
            return await attempt.read()

    async def _read_end(self, attempt: Attempt) -> None:
        event = await self._read(attempt)
        if event is None or not event.HasField("finished"):
            raise UpstreamUnavailable("the replica ended its stream before the reply was finished")
        self._finish(event, attempt.replica)
        try:
            # Its status, behind which nothing of the call is left to be cancelled.
            await self._read(attempt)
        except IsthmusError as error:
            if not is_transient(error):
                raise

    def _can_go_on(self) -> bool:
        """Whether another replica may take the place of one that was lost."""
        # What is kept to a form is kept to it from its first token on, by one engine.
        has_form = self._emitted.given_out and self._has_form
        is_left = self._continuations < self._settings.continuations_count_max
        return is_left and not has_form and self._errand.until > time.monotonic()

    @property
    def _has_form(self) -> bool:
        params = self._errand.request.params
        return params.HasField("structured_output") or params.tools.choice == message_pb2.ToolUse.CHOICE_REQUIRED

    async def _go_on(self, error: IsthmusError) -> Sequence[turn_pb2.Hop]:
        self._continuations += 1
        if self._attempt is not None:
            self._replicas.suspect(self._attempt.replica)
            self._tries.failed(self._attempt.replica, error)
        if self._emitted.given_out:
            self._ledger.lost(time.monotonic(), self._emitted.tokens, error.reason)
        else:
            self._emitted = Emitted()
        return await self.begin(self._manifest)

    async def _hand_over(self) -> Sequence[turn_pb2.Hop]:
        """Starts the reply, or what is left of it, at a replica that has room for it."""
        full: set[str] = set()
        while True:
            self._stop.check()
            self.close()
            replica = await self._tries.next(lambda: self._pick(full), self._errand.until)
            attempts = [self._attempted(replica)]
            try:
                return await self._start(attempts, full)
            except IsthmusError as error:
                for each in attempts:
                    each.close()
                if is_transient(error):
                    self._replicas.suspect(attempts[-1].replica)
                if self._tries.failed(attempts[-1].replica, error):
                    continue
                if error.reason != errors_pb2.ERROR_REASON_OVERLOADED:
                    raise
                full.update(each.replica.member_id for each in attempts)
                if self._replicas.is_other(self._errand.limits.name, full):
                    continue
                if self._emitted.given_out:
                    # To wait for a place costs the client a pause, to fail now the whole reply.
                    raise UpstreamUnavailable(error.message, error.retry_after_ms) from None
                raise

    def _pick(self, full: Collection[str]) -> Replica:
        errand = self._errand
        return self._replicas.pick(
            errand.tenant,
            errand.session,
            errand.limits.name,
            {*full, *self._tries.failed_at},
            tokens=self._manifest.tokens,
            output_tokens=errand.budget.output_tokens_max,
            task=errand.request.labels.get(_TASK, ""),
        )

    def _attempted(self, replica: Replica) -> Attempt:
        request = self._request(replica.model)
        return Attempt(replica, self._replicas, request, self._errand.until, self._stop)

    async def _start(self, attempts: list[Attempt], full: Collection[str]) -> Sequence[turn_pb2.Hop]:
        """Starts the attempt, and a second one where its pool is slow today; what is begun is added to `attempts`."""
        attempt = attempts[0]
        after_s = self._replicas.pools.get(attempt.replica.pool).hedge_after_s()

        def hedge() -> Attempt | None:
            replica = self._tries.hedge(lambda: self._pick({*full, attempt.replica.member_id}))
            if replica is not None:
                attempts.append(self._attempted(replica))
            return attempts[1] if replica is not None else None

        def cancel() -> None:
            for each in attempts:
                each.cancel()

        with self._stop.cancelling(cancel):
            if after_s is None or self._emitted.given_out:
                await attempt.start()
            else:
                attempt = await first_to_answer(attempt, after_s, hedge)
        return self._started(attempt)

    def _started(self, attempt: Attempt) -> Sequence[turn_pb2.Hop]:
        self._attempt, replica = attempt, attempt.replica
        self._tries.answered()
        self._replicas.served(self._errand.tenant, self._errand.session, replica)
        overhead_tokens = self._errand.limits.overhead_tokens
        placed = placement(replica.choice, self._manifest, attempt.started, overhead_tokens)
        return self._ledger.started(attempt.leg, attempt.started, placed, replica.pool)

    def _request(self, model: str) -> inference_service_pb2.GenerateRequest:
        request = self._errand.request
        params = message_pb2.SamplingParams()
        params.CopyFrom(request.params)
        params.max_output_tokens = self._errand.budget.output_tokens_max
        return inference_service_pb2.GenerateRequest(
            tenant=self._errand.tenant,
            session=self._errand.session,
            manifest=self._manifest,
            params=params,
            model=model,
            priority=request.priority,
            emitted=self._emitted.message() if self._emitted.given_out else None,
        )

    def _finish(self, event: inference_service_pb2.GenerateResponse, replica: Replica) -> None:
        self._finish_reason = event.finished.finish_reason
        self._tries.finished()
        # Counts mean something under the tokenizer for which the window was planned.
        if replica.tokenizer == self._errand.limits.tokenizer:
            self._counts = tuple(event.finished.counts)
        self.finished_hops = self._ledger.finished(event.ByteSize(), event.finished)

    def _fits(self, text: str) -> bool:
        self._size_bytes += len(text.encode())
        return self._size_bytes <= self._settings.reply_bytes_max
