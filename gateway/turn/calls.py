"""The store's side of one turn: open, plan anew, renew, commit, fail, wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2, summary_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.shards import Method, Shards
from gateway.turn.budget import Budget, ModelLimits
from gateway.turn.receipt import Leg
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.rpc.deadlines import without_deadline

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)

# The shortest lease that stores grant by default.
_RELEASED_MS: Final = 50

# Characters of an error that the turn keeps; the store takes 4,096 bytes.
_MESSAGE_LENGTH_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class Place:
    """A session, and by when (time.monotonic()) its shard must have answered."""

    tenant: str
    session: str
    until: float


@dataclass(frozen=True, slots=True)
class Errand:
    """A turn as its driver was asked for it. `until` is its deadline in seconds of time.monotonic()."""

    tenant: str
    session: str
    request: session_service_pb2.RunTurnRequest
    request_id: str
    digest: bytes
    driver: str
    after_turn: int | None
    limits: ModelLimits
    budget: Budget
    received_at: float
    until: float
    # Whether its caller reads the reply as it comes.
    is_streamed: bool = True

    @property
    def place(self) -> Place:
        """Where it is to be done."""
        return Place(self.tenant, self.session, self.until)

    @property
    def key(self) -> context_service_pb2.SessionKey:
        """The session as the store names it."""
        return context_service_pb2.SessionKey(tenant=self.tenant, session=self.session)


async def wait_turn(
    shards: Shards, place: Place, turn: int, incarnation: bytes, after_piece: int | None, wait_ms: int
) -> context_service_pb2.WaitTurnResponse:
    """The turn when it is closed, its lease has lapsed or, unless that is None, it has output behind `after_piece`; at
    the latest after `wait_ms`. An empty incarnation takes the session that there is.
    """
    left_ms = int((place.until - time.monotonic()) * 1000)
    timeout = duration_pb2.Duration()
    timeout.FromMilliseconds(max(0, min(wait_ms, left_ms)))
    request = context_service_pb2.WaitTurnRequest(
        key=context_service_pb2.SessionKey(tenant=place.tenant, session=place.session),
        turn=turn,
        timeout=timeout,
        incarnation=incarnation,
        starting_after=after_piece,
    )
    return await shards.call(lambda stub: stub.WaitTurn, place.tenant, place.session, request, until=place.until)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, with the exact counts of what it read."""

    text: str
    finish_reason: turn_pb2.FinishReason.ValueType
    counts: tuple[summary_pb2.TokenCount, ...]


def lease_of(opened: context_service_pb2.OpenTurnResponse) -> context_service_pb2.TurnLease:
    """What proves that the caller drives the turn it has opened."""
    turn = opened.turn
    return context_service_pb2.TurnLease(turn=turn.number, attempt=turn.attempt, incarnation=opened.incarnation)


class TurnCalls:
    """Calls of one turn to its shard; those that the receipt counts answer with their leg."""

    def __init__(self, shards: Shards, settings: GatewaySettings, errand: Errand) -> None:
        self._shards = shards
        self._settings = settings
        self._errand = errand
        self._lease = duration_pb2.Duration()
        self._lease.FromMilliseconds(settings.lease_ms)

    async def open(self) -> tuple[context_service_pb2.OpenTurnResponse, Leg]:
        """Opens the turn, attaches to it, takes it over or finds it finished."""
        errand = self._errand
        request = context_service_pb2.OpenTurnRequest(
            key=errand.key,
            request_id=errand.request_id,
            body_digest=errand.digest,
            driver=errand.driver,
            messages=errand.request.messages,
            params=errand.request.params if errand.request.HasField("params") else None,
            model=errand.limits.name,
            window_tokens_max=errand.budget.window_tokens_max,
            tokenizer=errand.limits.tokenizer,
            lease=self._lease,
            after_turn=errand.after_turn,
            on_disconnect=errand.request.on_disconnect,
            labels=errand.request.labels,
        )
        return await self._leg(lambda stub: stub.OpenTurn, request)

    async def take(self, turn: int, incarnation: bytes) -> tuple[context_service_pb2.OpenTurnResponse, Leg]:
        """Takes an open turn over whose driver was lost; else answers as `open` does of a turn that it finds."""
        request = context_service_pb2.TakeTurnRequest(
            key=self._errand.key,
            turn=turn,
            incarnation=incarnation,
            driver=self._errand.driver,
            lease=self._lease,
            window_tokens_max=self._errand.budget.window_tokens_max,
            tokenizer=self._errand.limits.tokenizer,
        )
        return await self._leg(lambda stub: stub.TakeTurn, request)

    async def said(self, opened: context_service_pb2.OpenTurnResponse) -> list[context_service_pb2.OutputPiece]:
        """What a turn that was taken over has said by then."""
        said: list[context_service_pb2.OutputPiece] = []
        while True:
            place, turn = self._errand.place, opened.turn.number
            waited = await wait_turn(self._shards, place, turn, opened.incarnation, len(said), 0)
            if not waited.pieces:
                return said
            said += waited.pieces

    async def replan(
        self, lease: context_service_pb2.TurnLease, measured_tokens: int
    ) -> tuple[context_service_pb2.OpenTurnResponse, Leg]:
        """Plans the window anew; `measured_tokens` is the size that the replica found, 0 if unknown."""
        request = context_service_pb2.ReplanTurnRequest(
            key=self._errand.key,
            lease=lease,
            window_tokens_max=self._errand.budget.window_tokens_max,
            tokenizer=self._errand.limits.tokenizer,
            measured_tokens=measured_tokens,
        )
        return await self._leg(lambda stub: stub.ReplanTurn, request)

    async def commit(
        self,
        lease: context_service_pb2.TurnLease,
        reply: Reply,
        receipt: turn_pb2.Receipt,
        piece_bytes: Sequence[int],
    ) -> tuple[context_service_pb2.CommitTurnResponse, Leg]:
        """Makes the reply durable; a shard that is away is waited for until the turn's deadline."""
        request = context_service_pb2.CommitTurnRequest(
            key=self._errand.key,
            lease=lease,
            output_text=reply.text,
            finish_reason=reply.finish_reason,
            receipt=receipt,
            tokenizer=self._errand.limits.tokenizer,
            counts=reply.counts,
            piece_bytes=piece_bytes,
        )
        left = self._errand.until - time.monotonic()
        return await self._leg(lambda stub: stub.CommitTurn, request, wait_seconds_max=left)

    async def renew(self, lease: context_service_pb2.TurnLease) -> None:
        """Extends the lease; tried again until it would have lapsed."""
        request = context_service_pb2.RenewTurnRequest(key=self._errand.key, lease=lease, duration=self._lease)
        await self._call(lambda stub: stub.RenewTurn, request, seconds_max=self._settings.lease_ms / 1000)

    async def fail(
        self, lease: context_service_pb2.TurnLease, reason: errors_pb2.ErrorReason.ValueType, message: str
    ) -> None:
        """Closes the turn without a reply, as well as it can be done in `gateway.fail_turn_ms_max`.

        Outlives the caller's deadline. Where it cannot be done, the lease runs out by itself.
        """
        request = context_service_pb2.FailTurnRequest(
            key=self._errand.key, lease=lease, reason=reason, message=message[:_MESSAGE_LENGTH_MAX]
        )
        with without_deadline():
            try:
                seconds_max = self._settings.fail_turn_ms_max / 1000
                await self._call(lambda stub: stub.FailTurn, request, seconds_max=seconds_max)
            except IsthmusError as error:
                structlog.get_logger("turns").info("turn not failed", turn=lease.turn, error=str(error))

    async def abandon(self, lease: context_service_pb2.TurnLease) -> None:
        """Fails the turn because its caller has gone."""
        message = "the caller went away before the reply was complete"
        await self.fail(lease, errors_pb2.ERROR_REASON_TURN_CANCELLED, message)

    async def release(self, lease: context_service_pb2.TurnLease) -> None:
        """Lets the lease lapse at once, so that another driver may take the turn over; as well as it can be done."""
        moment = duration_pb2.Duration()
        moment.FromMilliseconds(_RELEASED_MS)
        request = context_service_pb2.RenewTurnRequest(key=self._errand.key, lease=lease, duration=moment)
        with without_deadline():
            try:
                seconds_max = self._settings.fail_turn_ms_max / 1000
                await self._call(lambda stub: stub.RenewTurn, request, seconds_max=seconds_max)
            except IsthmusError as error:
                structlog.get_logger("turns").info("turn not released", turn=lease.turn, error=str(error))

    async def _leg(
        self,
        method: Method[Request, Answer],
        request: Request,
        *,
        wait_seconds_max: float | None = None,
    ) -> tuple[Answer, Leg]:
        errand = self._errand
        started_at = time.monotonic()
        answer = await self._shards.call(
            method, errand.tenant, errand.session, request, until=errand.until, wait_seconds_max=wait_seconds_max
        )
        return answer, Leg(time.monotonic() - started_at, request.ByteSize(), answer.ByteSize())

    async def _call(self, method: Method[Request, Answer], request: Request, *, seconds_max: float) -> Answer:
        return await self._shards.call(
            method,
            self._errand.tenant,
            self._errand.session,
            request,
            until=time.monotonic() + seconds_max,
        )
