"""What a turn cost, put together leg by leg while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import turn_pb2

GATEWAY_STORE = "gateway.context_store"
STORE_VALKEY = "context_store.valkey"
GATEWAY_INFERENCE = "gateway.inference"
INFERENCE_STORE = "inference.context_store"
INFERENCE_ENGINE = "inference.engine"


@dataclass(frozen=True, slots=True)
class Leg:
    """One call as its caller saw it: seconds from first byte out to answer in, serialised bytes each way."""

    seconds: float
    bytes_sent: int
    bytes_received: int


class Ledger:
    """The legs, counts and times of one turn.

    Every method that adds legs answers with the hops added, to be told to the client as they come. A leg's time
    includes those of the legs behind it, but for the hand-over to inference, from which the pull is taken off. Times
    are seconds of one monotonic clock, counted from `received_at`, the first byte of the request.
    """

    def __init__(self, received_at: float) -> None:
        self._received_at = received_at
        self._hops: list[turn_pb2.Hop] = []
        self._tokens = turn_pb2.TokenCounts()
        self._first_text_at: float | None = None
        self._last_text_at = received_at
        self._shard = ""
        self._replica = ""
        self._model = ""
        self._pool = ""
        self._hand_over: turn_pb2.Hop | None = None
        self._placement: turn_pb2.Placement | None = None
        self._continuations: list[turn_pb2.Continuation] = []
        # The reply stands still since then, where a replica was lost and no text has come from the next one.
        self._paused_at: float | None = None
        # What is known of the next replica before it has the window.
        self._lost: turn_pb2.Continuation | None = None
        self._findings: Sequence[turn_pb2.Finding] = ()
        self._refused: list[turn_pb2.RefusedTry] = []
        self._try_began_at = received_at
        self._released_at: float | None = None
        self._cache: turn_pb2.CacheUse | None = None
        self._durability: turn_pb2.DurabilityReport | None = None

    def opened(self, leg: Leg, opened: context_service_pb2.OpenTurnResponse) -> Sequence[turn_pb2.Hop]:
        """The shard has opened the turn; its messages are acknowledged."""
        self._durability = opened.durability
        return self.planned("open", leg, opened.timing)

    def planned(self, operation: str, leg: Leg, timing: context_service_pb2.StoreTiming) -> Sequence[turn_pb2.Hop]:
        """The shard has opened the turn (`open`) or planned its window anew (`plan`)."""
        self._shard = timing.shard
        hops = [_hop(GATEWAY_STORE, operation, leg), _valkey(operation, timing)]
        if operation == "open":
            hops.append(turn_pb2.Hop(name=GATEWAY_STORE, operation="plan", duration_ms=timing.plan_ms))
        return self._add(hops)

    def started(
        self,
        leg: Leg,
        event: inference_service_pb2.GenerateResponse.Started,
        placement: turn_pb2.Placement | None = None,
        pool: str = "",
    ) -> Sequence[turn_pb2.Hop]:
        """The replica has the whole window. Where it goes on with a reply, what it says of tokens takes the place of
        what the one before it said.
        """
        self._replica, self._model, self._placement, self._pool = event.replica, event.model, placement, pool
        if self._lost is not None:
            self._lost.replica = event.replica
            self._continuations.append(self._lost)
            self._lost = None
        self._tokens.window_tokens = event.window_tokens
        self._tokens.new_tokens = event.new_tokens
        self._tokens.reused_tokens = event.reused_tokens
        self._hand_over = _hop(GATEWAY_INFERENCE, "generate", leg)
        self._hand_over.duration_ms = max(0.0, self._hand_over.duration_ms - event.pull_ms)
        hops = [self._hand_over]
        if event.pulled_items:
            pull = turn_pb2.Hop(name=INFERENCE_STORE, operation="pull", duration_ms=event.pull_ms)
            pull.bytes_received = event.pulled_bytes
            hops.append(pull)
        return self._add(hops)

    def streamed(self, at: float, size_bytes: int, *, has_text: bool = True) -> None:
        """A message of the reply's stream came in."""
        self._received(size_bytes)
        if not has_text:
            return
        self._resumed(at)
        if self._first_text_at is None:
            self._first_text_at = at
        self._last_text_at = at

    def cached(self, at: float, use: turn_pb2.CacheUse, model: str) -> None:
        """The reply is a cached one of this model's, all at once."""
        self._cache, self._model = use, model
        self._first_text_at = self._last_text_at = at

    def released(self, at: float) -> None:
        """A reply that was held until it was judged begins to go out."""
        self._released_at = at

    def stopped(self, output_tokens: int) -> None:
        """The reply was ended here when it had so many tokens; its engine says nothing more of it."""
        self._tokens.output_tokens = max(self._tokens.output_tokens, output_tokens)

    def refused(
        self, at: float, check: str, kind: str, output_tokens: int, score: float | None = None
    ) -> turn_pb2.RefusedTry:
        """A check refused the reply when it had so many tokens. What follows is counted from nothing."""
        self.stopped(output_tokens)
        tried = turn_pb2.RefusedTry(
            check=check,
            kind=kind,
            replica=self._replica,
            model=self._model,
            tokens=self._tokens,
            duration_ms=_ms(at - self._try_began_at),
            score=score,
        )
        self._refused.append(tried)
        self._tokens = turn_pb2.TokenCounts()
        self._first_text_at, self._last_text_at, self._try_began_at = None, at, at
        self._cache, self._hand_over, self._paused_at, self._lost = None, None, None, None
        return tried

    def found(self, findings: Sequence[turn_pb2.Finding]) -> None:
        """What checks of the reply have found."""
        self._findings = findings

    def lost(self, at: float, emitted_tokens: int, reason: errors_pb2.ErrorReason.ValueType) -> None:
        """The replica's stream broke when the reply had so many tokens; another one is to go on."""
        self._resumed(at)
        self._paused_at = at if self._first_text_at is None else self._last_text_at
        self._lost = turn_pb2.Continuation(emitted_tokens=emitted_tokens, reason=reason)

    def finished(
        self, size_bytes: int, event: inference_service_pb2.GenerateResponse.Finished
    ) -> Sequence[turn_pb2.Hop]:
        """The engine has ended the reply."""
        self._received(size_bytes)
        self._tokens.output_tokens = event.output_tokens
        self._tokens.resident = event.resident
        if event.HasField("cached_tokens"):
            self._tokens.cached_tokens = event.cached_tokens
        hop = turn_pb2.Hop(name=INFERENCE_ENGINE, operation="generate", duration_ms=event.engine_ms)
        return self._add([hop])

    def receipt(self, now: float, window: turn_pb2.WindowReport, trace_id: str) -> turn_pb2.Receipt:
        """The receipt as far as the turn has come."""
        self._resumed(now)
        return turn_pb2.Receipt(
            hops=self._hops,
            tokens=self._tokens,
            ttft_ms=_ms((self._released_at or self._first_text_at or now) - self._received_at),
            tokens_per_second=self._rate(),
            window=window,
            shard=self._shard,
            replica=self._replica,
            model=self._model,
            pool=self._pool,
            trace_id=trace_id,
            total_ms=_ms(now - self._received_at),
            durability=self._durability,
            placement=self._placement,
            continuations=self._continuations,
            cache=self._cache,
            findings=self._findings,
            refused_tries=self._refused,
        )

    def _resumed(self, at: float) -> None:
        if self._paused_at is not None and self._continuations:
            self._continuations[-1].pause_ms = _ms(at - self._paused_at)
        self._paused_at = None

    def _rate(self) -> float:
        if self._first_text_at is None or self._last_text_at <= self._first_text_at:
            return 0.0
        # The first token opens the span, so one fewer falls into it.
        return max(0, self._tokens.output_tokens - 1) / (self._last_text_at - self._first_text_at)

    def _received(self, size_bytes: int) -> None:
        if self._hand_over is not None:
            self._hand_over.bytes_received += size_bytes

    def _add(self, hops: list[turn_pb2.Hop]) -> Sequence[turn_pb2.Hop]:
        self._hops.extend(hops)
        return hops


def committed_hops(leg: Leg, timing: context_service_pb2.StoreTiming) -> Sequence[turn_pb2.Hop]:
    """The legs of the commit; no receipt has them, for it is stored by the commit itself."""
    return [_hop(GATEWAY_STORE, "commit", leg), _valkey("commit", timing)]


def _hop(name: str, operation: str, leg: Leg) -> turn_pb2.Hop:
    return turn_pb2.Hop(
        name=name,
        operation=operation,
        duration_ms=_ms(leg.seconds),
        bytes_sent=leg.bytes_sent,
        bytes_received=leg.bytes_received,
    )


def _valkey(operation: str, timing: context_service_pb2.StoreTiming) -> turn_pb2.Hop:
    return turn_pb2.Hop(
        name=STORE_VALKEY,
        operation=operation,
        duration_ms=timing.valkey_ms,
        bytes_sent=timing.valkey_bytes_sent,
        bytes_received=timing.valkey_bytes_received,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
