"""Runs turns and reads them: each in a task of its own, told to its caller for as long as he stays."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager

import structlog
from isthmus.context.v1 import context_service_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from gateway.audits.sampling import AuditLine
from gateway.background import Background
from gateway.caches.caches import Caches
from gateway.limits.admission import Admission, Entry
from gateway.metrics import TurnMetrics
from gateway.models.replicas import Replicas
from gateway.names import parse_turn
from gateway.shards import Shards
from gateway.turn.appends import OutputAppends
from gateway.turn.calls import Job, TurnCalls
from gateway.turn.drive import Means
from gateway.turn.driven import DrivenTurns
from gateway.turn.output import Output
from gateway.turn.work import Asked, Work, reading
from gateway.validation.checks import Checks
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable, reason_name
from services.rpc.deadlines import remaining_s, without_deadline

Event = session_service_pb2.RunTurnResponse


class TurnDriver:
    """Turns for the edges: as many at once as `admission` lets in, and `gateway.readers_count_max` readers of others.

    What it gives out are async generators: leave them by `async with contextlib.aclosing(...) as events`.
    """

    def __init__(
        self,
        shards: Shards,
        replicas: Replicas,
        driven: DrivenTurns,
        settings: GatewaySettings,
        admission: Admission,
        caches: Caches,
        audits: AuditLine,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._background = Background()
        appends = OutputAppends(shards, settings)
        checks = Checks(settings.validation)
        self._means = Means(shards, replicas, appends, driven, self._background, caches, checks, audits, settings)
        self._settings = settings
        self.admission = admission
        self._random_bytes = random_bytes
        self.metrics = TurnMetrics()
        admission.metrics.register(self.metrics.registry)
        audits.register(self.metrics.registry)
        self._running = 0
        self._readers = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def run(
        self,
        tenant: str,
        request: session_service_pb2.RunTurnRequest,
        *,
        after_turn: int | None = None,
        received_at: float,
        is_streamed: bool = True,
        job: Job | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The turn's events: one `accepted`, `hop`s and `delta`s as they come, one `done`; or an IsthmusError raised.

        Closing the generator or cancelling its task before `done` stops generation and fails the turn, so that the same
        request_id runs it anew; unless the request's `on_disconnect` has it go on.
        `request.session` is `sessions/{id}`; an empty request_id is replaced by a new one, told in `accepted`.
        `after_turn`, or the request's own, is the number of the turn that must be the session's latest done one (0:
        none was yet), else NOT_LATEST_TURN. `received_at` is when the request's first byte came in, in seconds of
        time.monotonic(). `is_streamed`: the caller reads the reply as it comes, not only when it is whole.
        The deadline is that of the rpc being served, at most `gateway.turn_deadline_ms` from `received_at` on; a turn
        that outlives its caller has the latter. A turn that is run for a `job` stays open when it fails, or when its
        driver is cancelled.
        """
        continues = request.on_disconnect == turn_pb2.ON_DISCONNECT_CONTINUE
        until = self._until(received_at, has_deadline=not continues)
        entry = self.admission.turn(tenant, request)
        wants_hops = request.hop_detail == session_service_pb2.RunTurnRequest.HOP_DETAIL_UNSPECIFIED
        output = Output(outlives=continues and job is None, wants_hops=wants_hops, see=entry.see)

        async def work() -> None:
            asked = Asked(tenant, request, after_turn, received_at, until, is_streamed, job)
            async with self.admission.admitted(entry, until):
                await Work(self._means, self.metrics, output, asked, self._random_bytes).run()

        return self._told(work, output, entry)

    def attach(
        self, tenant: str, request: session_service_pb2.AttachTurnRequest, *, received_at: float
    ) -> AsyncGenerator[Event, None]:
        """A turn's events from any place of its output on, whether it is open or done: `accepted`, `delta`s, `done`.

        Where nobody drives the turn any more, this gateway does. Leaving changes nothing: the turn goes on.
        """
        until = self._until(received_at, has_deadline=True)
        output = Output(request.starting_after)

        async def work() -> None:
            name = parse_turn(request.name)
            asked = reading(tenant, name, received_at, until)
            with self._reading():
                await Work(self._means, self.metrics, output, asked, self._random_bytes).attach(name.number)

        return self._told(work, output)

    async def submit(
        self, tenant: str, request: session_service_pb2.RunTurnRequest, job: Job, *, received_at: float
    ) -> tuple[context_service_pb2.OpenTurnResponse, TurnCalls]:
        """The turn, opened for a job and not driven; and the calls by which its lease is made longer."""
        asked = Asked(tenant, request, None, received_at, self._until(received_at, has_deadline=True), False, job)
        return await Work(self._means, self.metrics, Output(), asked, self._random_bytes).submit()

    async def drained(self, seconds_max: float) -> None:
        """Waits for all turns under way, those that have outlived their callers among them."""
        try:
            async with asyncio.timeout(seconds_max):
                await self._idle.wait()
        except TimeoutError:
            structlog.get_logger("turns").info("turns are left to other gateways", count=self._running)

    def close(self) -> None:
        """From now on a turn that is stopped is not failed, but left to another driver."""
        self._means.driven.is_closing = True

    async def ended(self) -> None:
        """Waits for turns whose callers are gone to unwind, then for the commits and failures they left behind."""
        await self._background.ended(self._settings.fail_turn_ms_max / 1000)
        # What a cancelled turn leaves behind.
        await self._background.ended(self._settings.fail_turn_ms_max / 1000)

    async def _told(
        self, work: Callable[[], Coroutine[None, None, None]], output: Output, entry: Entry | None = None
    ) -> AsyncGenerator[Event, None]:
        # The work knows its deadline, which may be another one than the caller's.
        with without_deadline():
            working = self._background.start(self._worked(work, output), "turn")
        try:
            async with aclosing(output.events()) as events:
                async for event in events:
                    if entry is not None and event.HasField("done"):
                        await entry.settled()
                    yield event
        finally:
            output.leave()
            if not output.outlives:
                working.cancel()

    async def _worked(self, work: Callable[[], Coroutine[None, None, None]], output: Output) -> None:
        try:
            with self._counted():
                await work()
            output.end()
        except asyncio.CancelledError:
            self.metrics.failed("client_gone")
            output.end(UpstreamUnavailable("this gateway goes; the same request goes on at another one"))
            raise
        except Exception as error:  # noqa: BLE001 - it is raised to the caller
            reason = reason_name(error.reason).lower() if isinstance(error, IsthmusError) else "internal"
            self.metrics.failed(reason)
            output.end(error)

    def _until(self, received_at: float, *, has_deadline: bool) -> float:
        until = received_at + self._settings.turn_deadline_ms / 1000
        left = remaining_s() if has_deadline else None
        return until if left is None else min(until, time.monotonic() + left)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._readers >= self._settings.readers_count_max:
            message = f"{self._readers} turns are being read, which is all that this gateway reads at once"
            raise IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message)
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
