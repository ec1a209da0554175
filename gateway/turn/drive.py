"""One turn that this gateway drives: window handed over, text streamed, reply committed; or the turn failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from isthmus.context.v1 import context_service_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.audits.sampling import AuditLine
from gateway.background import Background
from gateway.caches.caches import Caches
from gateway.caches.serving import ServedReply
from gateway.limits.estimate import priced
from gateway.models.replicas import Replicas
from gateway.shards import Shards
from gateway.turn import lease
from gateway.turn.appends import OutputAppends
from gateway.turn.calls import Errand, TurnCalls, lease_of
from gateway.turn.driven import DrivenTurns, Stop
from gateway.turn.form import check_window
from gateway.turn.output import Output, OutputWriter, sourced
from gateway.turn.receipt import Ledger, Leg, committed_hops
from gateway.turn.reply import ReplyStream
from gateway.validation.anew import resampled
from gateway.validation.checks import Checks
from gateway.validation.serving import CheckedReply
from services.config import GatewaySettings
from services.errors import IsthmusError
from services.telemetry import current_trace_id

Event = session_service_pb2.RunTurnResponse

_REPLAN: Final = frozenset({errors_pb2.ERROR_REASON_WINDOW_OVERFLOW, errors_pb2.ERROR_REASON_WINDOW_CHANGED})


@dataclass(frozen=True, slots=True)
class Means:
    """What turns are driven with; the same for all turns of a gateway."""

    shards: Shards
    replicas: Replicas
    appends: OutputAppends
    driven: DrivenTurns
    background: Background
    caches: Caches
    checks: Checks
    audits: AuditLine
    settings: GatewaySettings


class Drive:
    """Drives an opened turn to its end, once. Whatever happens, nobody has to wait for this driver behind it."""

    def __init__(self, errand: Errand, calls: TurnCalls, means: Means, output: Output) -> None:
        self._errand = errand
        self._calls = calls
        self._means = means
        self._output = output
        self._stop = Stop()
        self._ledger = Ledger(errand.received_at)
        served = ServedReply(
            errand, self._stream(errand), means.caches, self._ledger, means.settings.caches, self._sourced
        )
        self._reply = CheckedReply(served, self._anew, errand, means.shards, self._ledger, means.checks)
        self._manifest = window_pb2.Manifest()
        self._lease = context_service_pb2.TurnLease()
        self._is_committing = False
        # A cached answer that is held until it is judged.
        self._held_source: turn_pb2.CacheUse | None = None

    async def run(self, opened: context_service_pb2.OpenTurnResponse, leg: Leg) -> turn_pb2.Turn:
        """Tells hops and pieces as they come, then `done`: the turn as it is committed.

        A turn that was taken over is gone on with behind what its output has. A task that is cancelled leaves the turn
        failed, or open to other drivers where this gateway goes.
        """
        self._manifest, self._lease = opened.manifest, lease_of(opened)
        key = (self._errand.tenant, self._errand.session, opened.turn.number)
        try:
            with (
                self._means.driven.driving(key, self._stop),
                lease.kept(lambda: self._calls.renew(self._lease), self._stop, self._means.settings.lease_ms),
            ):
                check_window(self._errand.request, self._manifest.report)
                self._tell(self._ledger.opened(leg, opened))
                writer = await self._writer(opened)
                await self._generate(writer)
                committing = self._commit(writer)
                turn, added = await asyncio.shield(committing)
        except Exception as error:
            await self._fail(error)
            raise
        except asyncio.CancelledError:
            self._abandon()
            raise
        for number, piece in writer.rest:
            self._output.tell_piece(number, piece)
        self._tell([*self._reply.finished_hops, *added])
        self._output.tell(Event(done=Event.Done(turn=turn)))
        return turn

    async def _writer(self, opened: context_service_pb2.OpenTurnResponse) -> OutputWriter:
        """Where the reply goes on from: its beginning, but for a turn that was taken over."""
        is_new = opened.outcome == context_service_pb2.OpenTurnResponse.OUTCOME_OPENED
        said = [] if is_new else await self._calls.said(opened)
        for number, piece in enumerate(said, 1):
            self._output.tell_piece(number, piece)
        self._reply.resume(said)
        return OutputWriter(
            self._means.appends, self._errand, self._lease, self._output, self._stop, self._means.settings, said
        )

    async def _generate(self, writer: OutputWriter) -> None:
        try:
            self._tell(await self._begin())
            async with aclosing(self._reply.events()) as events:
                async for event in events:
                    if isinstance(event, turn_pb2.Hop):
                        self._tell([event])
                    elif isinstance(event, turn_pb2.RefusedTry):
                        self._output.tell(Event(refused=event))
                    else:
                        if self._held_source is not None:
                            self._output.tell(sourced(self._held_source))
                            self._held_source = None
                        writer.put(event)
            await writer.finish()
        finally:
            writer.close()
            self._reply.close()

    def _sourced(self, cache: turn_pb2.CacheUse | None) -> None:
        """Tells where the reply comes from; of an answer that may yet be refused only once it is given."""
        self._held_source = cache if self._means.checks.holds else None
        if self._held_source is None:
            self._output.tell(sourced(cache))

    def _stream(self, errand: Errand) -> ReplyStream:
        return ReplyStream(errand, self._means.replicas, self._means.settings, self._ledger, self._stop)

    def _anew(self, number: int) -> ReplyStream:
        """Another try of the reply."""
        temperature_min = self._means.settings.validation.retry_temperature_min
        return self._stream(resampled(self._errand, number, temperature_min))

    async def _begin(self) -> Sequence[turn_pb2.Hop]:
        """Hands the window over, planned anew while the replica finds it too large or no longer the session's."""
        added: list[turn_pb2.Hop] = []
        for _ in range(self._means.settings.replans_count_max):
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
        check_window(self._errand.request, self._manifest.report)
        return self._ledger.planned("plan", leg, planned.timing)

    def _commit(self, writer: OutputWriter) -> asyncio.Task[tuple[turn_pb2.Turn, Sequence[turn_pb2.Hop]]]:
        """A task of its own: a reply that is whole is worth keeping, whether or not its caller still waits."""
        self._is_committing = True
        return self._means.background.start(self._committed(writer), "commit")

    async def _committed(self, writer: OutputWriter) -> tuple[turn_pb2.Turn, Sequence[turn_pb2.Hop]]:
        receipt = self._ledger.receipt(time.monotonic(), self._manifest.report, current_trace_id())
        receipt = priced(receipt, self._means.settings.limits)
        committed, leg = await self._calls.commit(self._lease, self._reply.reply(), receipt, writer.piece_bytes)
        await self._reply.committed(committed.turn.name)
        self._means.audits.committed(self._errand.tenant, committed.turn)
        if committed.durability.degraded:
            committed.turn.receipt.durability.CopyFrom(committed.durability)
        # Else the turn as it is stored: every caller of the request gets the same one.
        return committed.turn, committed_hops(leg, committed.timing)

    async def _fail(self, error: Exception) -> None:
        """Closes the turn before the caller hears of the error, so that its retry finds the turn closed."""
        if not isinstance(error, IsthmusError):
            error = IsthmusError(errors_pb2.ERROR_REASON_INTERNAL, f"an error of ours, {type(error).__name__}")
        # Where it is not ours any more there is nothing to fail.
        if error.reason not in lease.NOT_OURS:
            await self._means.background.finish(self._calls.fail(self._lease, error.reason, error.message), "fail turn")

    def _abandon(self) -> None:
        if self._is_committing:
            return
        if self._means.driven.is_closing:
            self._means.background.start(self._calls.release(self._lease), "release turn")
        else:
            self._means.background.start(self._calls.abandon(self._lease), "fail turn")

    def _tell(self, hops: Iterable[turn_pb2.Hop]) -> None:
        for hop in hops:
            self._output.tell(Event(hop=hop))
