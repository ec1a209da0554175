"""The end of a job: who is told, and where its record goes. The turn, closed by then, says which end it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from isthmus.session.v1 import turn_pb2

from gateway.jobs.book import JobBook, Shelf
from gateway.jobs.metrics import JobMetrics
from gateway.jobs.record import JobRecord, JobState
from gateway.webhooks.event import Event, event_of
from gateway.webhooks.webhooks import Webhooks
from services.errors import reason_name

_STATE: Final = {
    turn_pb2.Turn.STATE_DONE: JobState.DONE,
    turn_pb2.Turn.STATE_CANCELLED: JobState.CANCELLED,
    turn_pb2.Turn.STATE_FAILED: JobState.DEAD,
    turn_pb2.Turn.STATE_EXPIRED: JobState.DEAD,
}
_EXPIRED: Final = (
    "LEASE_LOST",
    "it waited longer than gateway.jobs.queued_ms_max, and another turn was opened meanwhile",
)
_log: Final = structlog.get_logger("jobs")


class Ending:
    """Ends jobs: safe to be done again, by whoever finds the turn closed."""

    def __init__(
        self, book: JobBook, webhooks: Webhooks, metrics: JobMetrics, clock: Callable[[], float] = time.time
    ) -> None:
        self._book = book
        self._webhooks = webhooks
        self._metrics = metrics
        self._clock = clock

    async def end(self, record: JobRecord, turn: turn_pb2.Turn) -> None:
        """Tells the tenant's endpoints of the end, then takes the job off the live ones."""
        state = _STATE[turn.state]
        ended = msgspec.structs.replace(record, state=state, end_ms=int(self._clock() * 1000))
        if state is JobState.DEAD:
            reason, message = _why(turn)
            ended = msgspec.structs.replace(ended, reason=reason, message=message)
        await self._webhooks.tell(record.tenant, self._event(record, turn))
        if await self._book.leave(ended, Shelf.DEAD if state is JobState.DEAD else Shelf.ENDED):
            self._metrics.ended(state)
            log = _log.bind(session=record.session, turn=record.turn, attempt=record.attempt)
            if state is JobState.DEAD:
                log.warning("job is a dead letter", reason=ended.reason, message=ended.message)

    async def drop(self, record: JobRecord) -> None:
        """The turn is gone with its session: nothing is left of the job, and nobody to tell."""
        gone = msgspec.structs.replace(record, state=JobState.FAILED, end_ms=int(self._clock() * 1000))
        if await self._book.leave(gone, None):
            self._metrics.ended(JobState.FAILED)

    def _event(self, record: JobRecord, turn: turn_pb2.Turn) -> Event:
        return event_of(record.key, f"resp_{record.session}_{record.turn}", turn, int(self._clock()))


def _why(turn: turn_pb2.Turn) -> tuple[str, str]:
    if turn.state == turn_pb2.Turn.STATE_EXPIRED:
        return _EXPIRED
    return reason_name(turn.error.reason), turn.error.message
