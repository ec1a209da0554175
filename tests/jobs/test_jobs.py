"""Turns in the background: submit one, look at it, wait for it, cancel it."""

from __future__ import annotations

import grpc.aio
import pytest
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_service_pb2, turn_pb2

from services.config import Settings
from services.errors import IsthmusError
from tests.gateway.client import turn_request
from tests.jobs.conftest import Jobs, Metadata, error_of, jobs_at, metadata_of, turn_of, with_jobs
from tests.support.eventually import eventually
from tests.support.mesh import changed, running_mesh

OVERLOADED = errors_pb2.ERROR_REASON_OVERLOADED


async def test_a_submitted_turn_is_run_without_its_caller(quick: Settings) -> None:
    async with running_mesh(quick, shards=1) as mesh:
        async with jobs_at(mesh.grpc_target) as caller:
            await caller.create("s1")
            operation = await caller.submit(turn_request("s1", "Think about it.", "r1"))
            assert operation.name == "sessions/s1/turns/1/operation"
            assert metadata_of(operation).request_id == "r1"
        # Another caller, another connection: the operation is the mesh's.
        async with jobs_at(mesh.grpc_target) as client:
            done = await client.done(operation.name)
            turn = turn_of(done)
            assert (turn.number, turn.state) == (1, turn_pb2.Turn.STATE_DONE)
            assert turn.output_text
            assert metadata_of(done).state == Metadata.STATE_DONE
            assert await client.texts("s1") == ["Think about it.", turn.output_text]


async def test_the_same_request_is_the_same_operation_and_the_same_turn(quick: Settings) -> None:
    async with running_mesh(quick, shards=1, gateways=2) as mesh, jobs_at(mesh.grpc_target) as client:
        await client.create("s1")
        request = turn_request("s1", "Once.", "r1")
        names = {(await client.submit(request)).name for _ in range(3)}
        assert names == {"sessions/s1/turns/1/operation"}
        done = turn_of(await client.done(names.pop()))
        assert turn_of(await client.submit(request)).output_text == done.output_text
        assert (await client.turn(request)).output_text == done.output_text, "a foreground call finds it, too"
        assert len(await client.texts("s1")) == 2


async def test_a_queued_turn_keeps_its_session_and_is_listed(quick: Settings) -> None:
    # This gateway takes jobs in and runs none.
    async with (
        running_mesh(with_jobs(quick, turns_concurrent_max=0), shards=1) as mesh,
        jobs_at(mesh.grpc_target) as client,
    ):
        await client.create("s1")
        operation = await client.submit(turn_request("s1", "Later.", "r1"))
        assert metadata_of(await client.look(operation.name)).state == Metadata.STATE_QUEUED
        other = await client.outcome(turn_request("s1", "Now!", "r2"))
        assert isinstance(other, IsthmusError)
        assert other.reason == errors_pb2.ERROR_REASON_TURN_IN_PROGRESS
        assert [each.name for each in await client.listed()] == [operation.name]
        await mesh.add_gateway(1, quick)
        assert turn_of(await client.done(operation.name)).output_text
        # The turn is done before its job is put away.
        await eventually(lambda: _shelf_is(client, "", []), message="nothing is live any more")
        ended = await client.listed("state = ENDED")
        assert [metadata_of(each).state for each in ended] == [Metadata.STATE_DONE]


async def test_a_queued_turn_is_cancelled_and_its_session_free(quick: Settings) -> None:
    async with (
        running_mesh(with_jobs(quick, turns_concurrent_max=0), shards=1) as mesh,
        jobs_at(mesh.grpc_target) as client,
    ):
        await client.create("s1")
        operation = await client.submit(turn_request("s1", "Never mind.", "r1"))
        await client.stub.CancelTurn(session_service_pb2.CancelTurnRequest(name="sessions/s1/turns/1"))
        gone = await client.done(operation.name)
        assert error_of(gone).reason == errors_pb2.ERROR_REASON_TURN_CANCELLED
        assert await client.listed() == []
        await mesh.add_gateway(1, quick)
        assert turn_of(await client.done((await client.submit(turn_request("s1", "Next.", "r2"))).name)).number == 2
        assert (await client.texts("s1"))[0] == "Next.", "what was cancelled was never run"


async def test_a_running_turn_is_cancelled_from_another_gateway(quick: Settings) -> None:
    slow = changed(quick, "inference", scripted_output_tokens=600, scripted_tokens_per_s=20.0)
    async with running_mesh(slow, shards=1) as mesh:
        await mesh.add_gateway(1, with_jobs(slow, turns_concurrent_max=0))
        async with jobs_at(mesh.gateway_room(1).address) as client:
            await client.create("s1")
            operation = await client.submit(turn_request("s1", "Talk for long.", "r1"))
            await eventually(mesh.generating, message="it runs")
            await eventually(lambda: _has_output(client, operation.name), message="progress is told")
            await client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
            assert error_of(await client.done(operation.name)).reason == errors_pb2.ERROR_REASON_TURN_CANCELLED
            await eventually(lambda: not mesh.generating(), message="the replica stops")


async def test_too_many_jobs_are_refused_and_leave_nothing_behind(quick: Settings) -> None:
    bound = with_jobs(quick, turns_concurrent_max=0, queued_count_max=1)
    async with running_mesh(bound, shards=1) as mesh, jobs_at(mesh.grpc_target) as client:
        await client.create("s1")
        await client.create("s2")
        await client.submit(turn_request("s1", "First.", "r1"))
        with pytest.raises(IsthmusError, match="queued_count_max") as caught:
            await client.submit(turn_request("s2", "One too many.", "r2"))
        refused = caught.value
        assert (refused.reason, refused.code) == (OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert refused.retry_after_ms
        assert (await client.get_turn("sessions/s2/turns/1")).state == turn_pb2.Turn.STATE_FAILED


async def _shelf_is(client: Jobs, filter_text: str, names: list[str]) -> bool:
    return [each.name for each in await client.listed(filter_text)] == names


async def _has_output(client: Jobs, name: str) -> bool:
    return bool(metadata_of(await client.look(name)).output_bytes)
