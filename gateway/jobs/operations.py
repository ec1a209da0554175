"""google.longrunning.Operations over jobs: a turn's operation is named `sessions/{session}/turns/{turn}/operation`.

The turn says whether it is done and what it came to; the book of jobs how far it is, while it knows the job. Every turn
has an operation, that of a foreground call, too.
"""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, TypeAlias

import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc  # type: ignore[import-untyped]
from google.protobuf import empty_pb2, timestamp_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import operation_pb2, turn_pb2

from gateway.backend import Backend
from gateway.jobs.book import Shelf
from gateway.jobs.jobs import TurnJobs
from gateway.jobs.record import JobRecord, JobState, reason_of
from gateway.names import parse_operation
from gateway.tenancy import tenant
from services.config import JobSettings
from services.errors import InvalidField, IsthmusError, NotFound, to_status
from services.rpc.deadlines import remaining_s

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata = operation_pb2.TurnOperationMetadata

_PAGE_COUNT_DEFAULT: Final = 100
_PAGE_COUNT_MAX: Final = 1_000
_FILTER: Final = re.compile(r'\s*(state\s*=\s*"?(?P<state>LIVE|DEAD|ENDED)"?)?\s*', re.IGNORECASE)
_FROM_JOB: Final = {
    JobState.QUEUED: Metadata.STATE_QUEUED,
    JobState.RUNNING: Metadata.STATE_RUNNING,
    JobState.WAITING: Metadata.STATE_WAITING,
    JobState.DONE: Metadata.STATE_DONE,
    JobState.CANCELLED: Metadata.STATE_CANCELLED,
    JobState.FAILED: Metadata.STATE_FAILED,
    JobState.DEAD: Metadata.STATE_FAILED,
}
_FROM_TURN: Final = {
    turn_pb2.Turn.STATE_OPEN: Metadata.STATE_RUNNING,
    turn_pb2.Turn.STATE_DONE: Metadata.STATE_DONE,
    turn_pb2.Turn.STATE_CANCELLED: Metadata.STATE_CANCELLED,
}


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]
    """The operations of the caller's tenant."""

    def __init__(self, backend: Backend, jobs: TurnJobs, settings: JobSettings) -> None:
        self._backend = backend
        self._jobs = jobs
        self._settings = settings

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        return await self._get(request.name)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """The operation once it is done, or as it stands after `timeout`."""
        asked_s = request.timeout.ToMilliseconds() / 1000 if request.HasField("timeout") else float("inf")
        left_s = remaining_s()
        # The answer itself takes a moment of the caller's time.
        left_s = float("inf") if left_s is None else left_s * 0.9
        loop = asyncio.get_running_loop()
        until = loop.time() + min(asked_s, left_s, self._settings.wait_ms_max / 1000)
        while True:
            found = await self._get(request.name)
            if found.done or loop.time() >= until:
                return found
            await asyncio.sleep(min(self._settings.wait_poll_ms / 1000, max(0.0, until - loop.time())))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        """Jobs, newest first, as the book has them: without their turns' texts."""
        shelf = _shelf(request.filter)
        if not 0 <= request.page_size <= _PAGE_COUNT_MAX:
            raise InvalidField("page_size", f"is {request.page_size}, expected 0 to {_PAGE_COUNT_MAX}")
        count, offset = request.page_size or _PAGE_COUNT_DEFAULT, _offset(request.page_token)
        found = await self._jobs.book.page(tenant(), shelf, offset, count)
        answer = operations_pb2.ListOperationsResponse(operations=[_listed(each) for each in found])
        if len(found) == count:
            answer.next_page_token = str(offset + count)
        return answer

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Context
    ) -> empty_pb2.Empty:
        name = parse_operation(request.name)
        await self._jobs.cancel(tenant(), name.session, name.number)
        return empty_pb2.Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: Context
    ) -> empty_pb2.Empty:
        """Takes a job that is over, a dead letter for instance, out of the book; its turn stays."""
        name = parse_operation(request.name)
        if not await self._jobs.forget(tenant(), name.session, name.number):
            raise NotFound(f"{request.name}, as one that is over and kept,")
        return empty_pb2.Empty()

    async def _get(self, name: str) -> operations_pb2.Operation:
        parsed = parse_operation(name)
        turn = await self._backend.get_turn(tenant(), parsed.session, parsed.number)
        return operation_of(turn, await self._jobs.find(tenant(), parsed.session, parsed.number))


def operation_of(turn: turn_pb2.Turn, record: JobRecord | None) -> operations_pb2.Operation:
    """The operation of a turn, with what the book knows of its job."""
    metadata = _metadata(record) if record else Metadata(turn=turn.name, request_id=turn.request_id)
    is_open = turn.state == turn_pb2.Turn.STATE_OPEN
    if record is None or not is_open:
        metadata.state = _FROM_TURN.get(turn.state, Metadata.STATE_FAILED)
    metadata.create_time.CopyFrom(turn.create_time)
    if turn.HasField("end_time"):
        metadata.end_time.CopyFrom(turn.end_time)
    operation = operations_pb2.Operation(name=f"{turn.name}/operation", done=not is_open)
    if turn.state == turn_pb2.Turn.STATE_DONE:
        operation.response.Pack(turn)
    elif not is_open:
        operation.error.CopyFrom(to_status(_error(turn)))
        if metadata.state == Metadata.STATE_FAILED and turn.HasField("error"):
            metadata.last_error.CopyFrom(turn.error)
    operation.metadata.Pack(metadata)
    return operation


def _listed(record: JobRecord) -> operations_pb2.Operation:
    """The operation of a job as the book alone knows it: a failure is told, a reply is not."""
    operation = operations_pb2.Operation(name=f"{_turn_name(record)}/operation", done=not record.state.is_live)
    if record.state in (JobState.DEAD, JobState.FAILED):
        error = turn_pb2.TurnError(reason=reason_of(record.reason), message=record.message)
        turn = turn_pb2.Turn(name=_turn_name(record), state=turn_pb2.Turn.STATE_FAILED, error=error)
        operation.error.CopyFrom(to_status(_error(turn)))
    elif record.state is JobState.CANCELLED:
        turn = turn_pb2.Turn(name=_turn_name(record), state=turn_pb2.Turn.STATE_CANCELLED)
        operation.error.CopyFrom(to_status(_error(turn)))
    operation.metadata.Pack(_metadata(record))
    return operation


def _metadata(record: JobRecord) -> operation_pb2.TurnOperationMetadata:
    metadata = Metadata(
        turn=_turn_name(record),
        request_id=record.request_id,
        state=_FROM_JOB[record.state],
        attempt=record.attempt,
        output_bytes=record.output_bytes,
        dead=record.state is JobState.DEAD,
    )
    _set_time(metadata.create_time, record.create_ms)
    if record.start_ms:
        _set_time(metadata.start_time, record.start_ms)
    if record.end_ms:
        _set_time(metadata.end_time, record.end_ms)
    if record.reason:
        metadata.last_error.reason = reason_of(record.reason)
        metadata.last_error.message = record.message
    return metadata


def _turn_name(record: JobRecord) -> str:
    return f"sessions/{record.session}/turns/{record.turn}"


def _error(turn: turn_pb2.Turn) -> IsthmusError:
    if turn.state == turn_pb2.Turn.STATE_CANCELLED:
        return IsthmusError(errors_pb2.ERROR_REASON_TURN_CANCELLED, f"{turn.name} was cancelled")
    if turn.state == turn_pb2.Turn.STATE_EXPIRED:
        message = f"{turn.name} expired: its driver was lost, and another turn was opened before anybody took it over"
        return IsthmusError(errors_pb2.ERROR_REASON_LEASE_LOST, message)
    return IsthmusError(turn.error.reason or errors_pb2.ERROR_REASON_INTERNAL, turn.error.message)


def _set_time(target: timestamp_pb2.Timestamp, ms: int) -> None:
    target.FromMilliseconds(ms)


def _shelf(filter_text: str) -> Shelf:
    match = _FILTER.fullmatch(filter_text[:128])
    if match is None:
        raise InvalidField("filter", f"is {filter_text[:128]!r}, expected state = LIVE, state = DEAD or state = ENDED")
    return Shelf((match["state"] or "LIVE").lower())


def _offset(token: str) -> int:
    if not token:
        return 0
    if not token.isascii() or not token.isdigit() or len(token) > 9:
        raise InvalidField("page_token", "is none that ListOperations gave out")
    return int(token)
