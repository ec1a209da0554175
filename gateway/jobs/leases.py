"""What jobs ask of the store beside driving: how long a queued turn is theirs, and that one has failed for good."""

from __future__ import annotations

import time

from google.protobuf import duration_pb2
from isthmus.context.v1 import context_service_pb2 as store
from isthmus.errors.v1 import errors_pb2

from gateway.jobs.record import JobRecord
from gateway.shards import Shards

# Bytes of an error that the turn keeps are bounded by the store.
_MESSAGE_CHARS_MAX = 1_024


class TurnLeases:
    """Leases of turns that have jobs. Raises IsthmusErrors, LEASE_LOST where another attempt has the turn."""

    def __init__(self, shards: Shards, wait_ms_max: int) -> None:
        self._shards = shards
        self._wait_ms_max = wait_ms_max

    async def renew(self, record: JobRecord, attempt: int, lease_ms: int) -> None:
        """Makes the lease of this attempt end in `lease_ms`."""
        duration = duration_pb2.Duration()
        duration.FromMilliseconds(lease_ms)
        request = store.RenewTurnRequest(key=_key(record), lease=_lease(record, attempt), duration=duration)
        await self._shards.call(
            lambda stub: stub.RenewTurn, record.tenant, record.session, request, until=self._until()
        )

    async def fail(
        self, record: JobRecord, attempt: int, reason: errors_pb2.ErrorReason.ValueType, message: str
    ) -> None:
        """Closes the turn without a reply; its messages are void."""
        request = store.FailTurnRequest(
            key=_key(record), lease=_lease(record, attempt), reason=reason, message=message[:_MESSAGE_CHARS_MAX]
        )
        await self._shards.call(lambda stub: stub.FailTurn, record.tenant, record.session, request, until=self._until())

    def _until(self) -> float:
        return time.monotonic() + self._wait_ms_max / 1000


def _key(record: JobRecord) -> store.SessionKey:
    return store.SessionKey(tenant=record.tenant, session=record.session)


def _lease(record: JobRecord, attempt: int) -> store.TurnLease:
    return store.TurnLease(turn=record.turn, attempt=attempt, incarnation=record.incarnation)
