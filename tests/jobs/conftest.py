"""A mesh that runs turns in the background, and clients of its operations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc  # type: ignore[import-untyped]
from google.protobuf import duration_pb2
from isthmus.session.v1 import operation_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError, from_rpc_error, from_status
from tests.gateway.client import Client, Request
from tests.support.mesh import changed

Metadata = operation_pb2.TurnOperationMetadata


class Jobs(Client):
    """A client that leaves turns to the mesh."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.operations: Any = operations_pb2_grpc.OperationsStub(channel)

    async def submit(self, request: Request) -> operations_pb2.Operation:
        """The operation of a turn."""
        try:
            return await self.stub.SubmitTurn(request)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def look(self, name: str) -> operations_pb2.Operation:
        """The operation as it stands."""
        found: operations_pb2.Operation = await self.operations.GetOperation(
            operations_pb2.GetOperationRequest(name=name)
        )
        return found

    async def done(self, name: str, seconds: int = 60) -> operations_pb2.Operation:
        """The operation at its end."""
        request = operations_pb2.WaitOperationRequest(name=name, timeout=duration_pb2.Duration(seconds=seconds))
        found: operations_pb2.Operation = await self.operations.WaitOperation(request, timeout=seconds + 10)
        assert found.done, found
        return found

    async def listed(self, filter_text: str = "") -> list[operations_pb2.Operation]:
        """The first page of a shelf."""
        request = operations_pb2.ListOperationsRequest(filter=filter_text, page_size=1_000)
        return list((await self.operations.ListOperations(request)).operations)


def turn_of(operation: operations_pb2.Operation) -> turn_pb2.Turn:
    """The response of an operation that is done."""
    turn = turn_pb2.Turn()
    assert operation.response.Unpack(turn), operation
    return turn


def metadata_of(operation: operations_pb2.Operation) -> operation_pb2.TurnOperationMetadata:
    """How far it is."""
    metadata = Metadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


def error_of(operation: operations_pb2.Operation) -> IsthmusError:
    """What the turn came to instead of a reply."""
    assert operation.HasField("error"), operation
    error = from_status(operation.error)
    assert error is not None
    return error


@asynccontextmanager
async def jobs_at(target: str) -> AsyncIterator[Jobs]:
    """A client with a channel of its own."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield Jobs(channel)


def with_jobs(settings: Settings, webhooks: dict[str, Any] | None = None, **jobs: Any) -> Settings:
    """The settings with other ones of jobs."""
    own = settings.gateway.jobs.model_validate(settings.gateway.jobs.model_dump() | jobs)
    hooks = settings.gateway.webhooks.model_validate(settings.gateway.webhooks.model_dump() | (webhooks or {}))
    return changed(settings, "gateway", jobs=own, webhooks=hooks)


@pytest.fixture
def quick(settings: Settings, tokenizer_cache: Path) -> Settings:
    """Replies at once; what is lost or failed comes again soon."""
    scripted = changed(settings, "inference", engine="scripted", cache_dir=tokenizer_cache, scripted_output_tokens=8)
    return with_jobs(
        scripted, redelivery_ms=1_000, retry_ms_min=50, retry_ms_max=200, attempts_count_max=3, progress_ms=50
    )
