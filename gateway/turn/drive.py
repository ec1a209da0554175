"""One turn that this gateway drives: window handed over, text streamed, reply committed; or the turn failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from isthmus.context.v1 import context_service_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.background import Background
from gateway.caches.caches import Caches
from gateway.caches.serving import ServedReply
from gateway.models.replicas import Replicas
from gateway.turn import lease
from gateway.turn.calls import Errand, TurnCalls, lease_of
from gateway.turn.driven import DrivenTurns, Stop
from gateway.turn.receipt import Ledger, Leg, committed_hops
from gateway.turn.reply import ReplyStream
from gateway.validation.serving import CheckedReply, Checks
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.telemetry import current_trace_id

Event = session_service_pb2.RunTurnResponse

_REPLAN: Final = frozenset({errors_pb2.ERROR_REASON_WINDOW_OVERFLOW, errors_pb2.ERROR_REASON_WINDOW_CHANGED})


class Drive:
    """Drives an opened turn to its end. `events` once; whatever happens, the turn does not stay open behind it."""

    def __init__(
        self,
        errand: Errand,
        calls: TurnCalls,
        replicas: Replicas,
        driven: DrivenTurns,
        background: Background,
        settings: GatewaySettings,
        caches: Caches,
        checks: Checks,
    ) -> None:
        self._calls = calls
        self._background = background
        self._settings = settings
        self._driven = driven
        self._errand = errand
        self._stop = Stop()
        self._ledger = Ledger(errand.received_at)
        replies = ReplyStream(errand, replicas, settings, self._ledger, self._stop)
        served = ServedReply(errand, replies, caches, self._ledger, settings.caches)
        self._reply = CheckedReply(served, self._ledger, checks)
        self._manifest = window_pb2.Manifest()
        self._lease = context_service_pb2.TurnLease()
        self._committing = False

    @property
    def text_sent(self) -> bool:
        """Whether any of the reply was given out, so that another one could not take its place."""
        return self._reply.text_sent

    async def events(self, opened: context_service_pb2.OpenTurnResponse, leg: Leg) -> AsyncGenerator[Event, None]:
        """`accepted`, hops and deltas as they come, then `done`."""
        self._manifest, self._lease = opened.manifest, lease_of(opened)
        key = (self._errand.tenant, self._errand.session, opened.turn.number)
        try:
            with self._driven.driving(key, self._stop):
                async with lease.kept(lambda: self._calls.renew(self._lease), self._stop, self._settings.lease_ms):
                    planned = self._ledger.opened(leg, opened)
                    async with aclosing(self._generated([accepted(opened), *_events(planned)])) as generated:
                        async for event in generated:
                            yield event
                    committing = self._commit()
                    for event in _events(self._reply.finished_hops):
                        yield event
                    done, added = await asyncio.shield(committing)
        except Exception as error:
            await self._fail(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._abandon()
            raise
        for event in _events(added):
            yield event
        yield done

    async def _generated(self, opening: Iterable[Event]) -> AsyncGenerator[Event, None]:
        """The opening events, which the client gets while the window is already handed over; then the reply's."""
        beginning = self._background.start(self._begin(), "hand over")
        try:
            for event in opening:
                yield event
            for event in _events(await beginning):
                yield event
            async with aclosing(self._reply.events()) as events:
                async for event in events:
                    yield event
        finally:
            beginning.cancel()
            self._reply.close()

    async def _begin(self) -> Sequence[turn_pb2.Hop]:
        """Hands the window over, planned anew while the replica finds it too large or no longer the session's."""
        added: list[turn_pb2.Hop] = []
        for _ in range(self._settings.replans_count_max):
            try:
                return [*added, *await self._reply.begin(self._manifest)]
            except IsthmusError as error:
                if error.reason not in _REPLAN:
                    raise
                added += await self._replan(measured_tokens=int(error.metadata.get("tokens", "0")))
        return [*added, *await self._reply.begin(self._manifest)]

    async def _replan(self, measured_tokens: int) -> Sequence[turn_pb2.Hop]:
        planned, leg = await self._calls.replan(self._lease, measured_tokens)
        self._manifest = planned.manifest
        return self._ledger.planned("plan", leg, planned.timing)

    def _commit(self) -> asyncio.Task[tuple[Event, Sequence[turn_pb2.Hop]]]:
        """A task of its own: a reply that is whole is worth keeping, whether or not its caller still waits."""
        self._committing = True
        return self._background.start(self._committed(), "commit")

    async def _committed(self) -> tuple[Event, Sequence[turn_pb2.Hop]]:
        receipt = self._ledger.receipt(time.monotonic(), self._manifest.report, current_trace_id())
        committed, leg = await self._calls.commit(self._lease, self._reply.reply(), receipt)
        await self._reply.committed(committed.turn.name)
        if committed.durability.degraded:
            committed.turn.receipt.durability.CopyFrom(committed.durability)
        # Else the turn as it is stored: every caller of the request gets the same one.
        return Event(done=Event.Done(turn=committed.turn)), committed_hops(leg, committed.timing)

    async def _fail(self, error: Exception) -> None:
        """Closes the turn before the caller hears of the error, so that its retry finds the turn closed."""
        if not isinstance(error, IsthmusError):
            error = IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, f"an error of ours, {type(error).__name__}")
        # Where it is not ours any more there is nothing to fail.
        if error.reason not in lease.NOT_OURS:
            await self._background.finish(self._calls.fail(self._lease, error.reason, error.message), "fail turn")

    def _abandon(self) -> None:
        if not self._committing:
            self._background.start(self._calls.abandon(self._lease), "fail turn")


def accepted(opened: context_service_pb2.OpenTurnResponse) -> Event:
    """The first event of a turn."""
    turn = opened.turn
    attached = opened.outcome != context_service_pb2.OpenTurnResponse.OUTCOME_OPENED
    return Event(
        accepted=Event.Accepted(turn=turn.name, request_id=turn.request_id, attached=attached, attempt=turn.attempt)
    )


def _events(hops: Iterable[turn_pb2.Hop]) -> Iterable[Event]:
    return [Event(hop=hop) for hop in hops]
