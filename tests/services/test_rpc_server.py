"""The server's promises, over real gRPC and for all four kinds of rpc."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]
from isthmus.context.v1.context_service_pb2 import GetTurnRequest
from isthmus.errors.v1 import errors_pb2
from redis.asyncio import Redis
from structlog.testing import capture_logs

from services.config import Settings, load_settings
from services.errors import IsthmusError, from_rpc_error
from services.lifecycle import RoomContext, State
from services.rpc import GrpcServer
from tests.services.probe import KINDS, SERVICE, Effect, Probe, ProbeClient, request, served
from tests.support.eventually import eventually

all_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def settings() -> Settings:
    """No Valkey is needed here."""
    return load_settings(rpc={"drain_ms_max": 5_000})


@asynccontextmanager
async def calling(
    settings: Settings, effect: Effect | None = None, *, raw: bool = False, **options: Any
) -> AsyncIterator[tuple[ProbeClient, Probe]]:
    probe = Probe(effect)
    async with (
        served(settings, probe, **options) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield ProbeClient(channel, raw=raw), probe


def raising(error: Exception) -> Effect:
    async def effect(_: GetTurnRequest) -> None:
        raise error

    return effect


async def refused(call: Any) -> IsthmusError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@all_kinds
async def test_answers(settings: Settings, kind: str) -> None:
    async with calling(settings) as (client, _):
        assert await client.call(kind, request(2)) == ["2", "2"][: 2 if kind == "UnaryStream" else 1]


@all_kinds
async def test_an_error_arrives_whole(settings: Settings, kind: str) -> None:
    error = IsthmusError(
        errors_pb2.ERROR_REASON_TURN_IN_PROGRESS, "turn 4 is open", metadata={"turn": "4"}, retry_after_ms=120
    )
    async with calling(settings, raising(error)) as (client, _):
        got = await refused(client.call(kind, request()))
    assert (got.reason, got.message) == (error.reason, "turn 4 is open")
    assert (got.metadata, got.retry_after_ms) == ({"turn": "4"}, 120)
    assert got.code is grpc.StatusCode.ABORTED


@all_kinds
async def test_a_bug_is_logged_and_answered_without_its_words(settings: Settings, kind: str) -> None:
    with capture_logs() as logged:
        async with calling(settings, raising(ZeroDivisionError("secret"))) as (client, _):
            got = await refused(client.call(kind, request()))
    assert got.reason == errors_pb2.ERROR_REASON_INTERNAL
    assert "secret" not in got.message
    assert [(each["event"], str(each["exc_info"])) for each in logged] == [("bug", "secret")]


@all_kinds
async def test_work_that_is_cancelled_from_within_leaves_no_caller_waiting(settings: Settings, kind: str) -> None:
    async def effect(_: GetTurnRequest) -> None:
        raise asyncio.CancelledError

    async with calling(settings, effect) as (client, _):
        got = await refused(client.call(kind, request(), timeout=60))
    assert got.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE


async def test_valkey_away_is_unavailable_and_says_when_to_retry() -> None:
    nowhere = load_settings(valkey={"url": "redis://127.0.0.1:1/0", "retries_count_max": 0})
    client_of_nowhere = Redis.from_url(nowhere.valkey.url)

    async def effect(_: GetTurnRequest) -> None:
        await client_of_nowhere.ping()

    async with calling(nowhere, effect) as (client, _):
        got = await refused(client.call("UnaryUnary", request()))
    assert got.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert got.retry_after_ms is not None
    await client_of_nowhere.aclose()


@all_kinds
async def test_every_wrong_field_is_named_and_the_servicer_not_asked(settings: Settings, kind: str) -> None:
    async with calling(settings) as (client, probe):
        got = await refused(client.call(kind, request(turn=0, session="No Such")))
        assert got.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
        assert {each.field for each in got.fields} == {"key.session", "turn"}
        assert "turn: must be greater than or equal to 1" in got.message
        assert probe.seen == []


async def test_each_message_of_a_stream_is_checked(settings: Settings) -> None:
    async with calling(settings) as (client, probe):
        got = await refused(client.call("StreamUnary", request(1), request(2), request(turn=0)))
        assert [each.field for each in got.fields] == ["turn"]
        assert probe.seen == [1, 2]


@all_kinds
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\x0a", b"rubbish"])
async def test_bytes_that_are_no_message_are_the_callers_fault(settings: Settings, kind: str, data: bytes) -> None:
    async with calling(settings, raw=True) as (client, _):
        got = await refused(client.call(kind, data))
        assert got.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
        assert "expected a protobuf message" in got.message
        assert await client.call(kind, request().SerializeToString()) == ["1"]


@all_kinds
async def test_a_text_that_is_not_utf8_is_named_with_its_offset(settings: Settings, kind: str) -> None:
    data = request(session="abcde").SerializeToString().replace(b"abcde", b"abc\xffe")
    async with calling(settings, raw=True) as (client, _):
        got = await refused(client.call(kind, data))
    assert got.reason == errors_pb2.ERROR_REASON_INVALID_UTF8
    assert got.metadata == {"offset": "3"}
    assert [each.field for each in got.fields] == ["key.session"]


@all_kinds
async def test_a_message_over_the_bound_is_refused_and_nothing_else_changes(settings: Settings, kind: str) -> None:
    async with calling(settings, message_bytes_max=1 << 16) as (client, probe):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(kind, request(session="s" * (1 << 17)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert from_rpc_error(caught.value).reason == errors_pb2.ERROR_REASON_INVALID_FIELD
        assert probe.seen == []
        assert await client.call(kind, request()) == ["1"]


@all_kinds
@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING, State.STOPPED])
async def test_a_room_that_is_not_ready_refuses_and_says_when_to_retry(
    settings: Settings, kind: str, state: State
) -> None:
    async with calling(settings, state=state) as (client, probe):
        got = await refused(client.call(kind, request()))
        assert got.reason == errors_pb2.ERROR_REASON_NOT_READY
        assert got.code is grpc.StatusCode.UNAVAILABLE
        assert got.retry_after_ms is not None
        assert state.value in got.message
        assert probe.seen == []


async def test_draining_lets_through_what_finishes_open_work(settings: Settings) -> None:
    finishing = {f"/{SERVICE}/UnaryUnary"}
    async with calling(settings, state=State.DRAINING, finishing=finishing) as (client, _):
        assert await client.call("UnaryUnary", request()) == ["1"]
        assert (await refused(client.call("UnaryStream", request()))).reason == errors_pb2.ERROR_REASON_NOT_READY


@all_kinds
async def test_draining_waits_for_what_is_open(settings: Settings, kind: str) -> None:
    may_finish = asyncio.Event()

    async def effect(_: GetTurnRequest) -> None:
        await may_finish.wait()

    async with (
        served(settings, Probe(effect)) as (server, lifecycle),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = asyncio.create_task(ProbeClient(channel).call(kind, request()))
        await eventually(lambda: server.open_rpcs == 1)
        lifecycle.move(State.DRAINING)
        drain = asyncio.create_task(server.drain())
        await refused(ProbeClient(channel).call(kind, request()))
        assert not drain.done()
        may_finish.set()
        await drain
        assert await call == ["1"]


async def test_draining_is_bounded(settings: Settings) -> None:
    never = asyncio.Event()

    async def effect(_: GetTurnRequest) -> None:
        await never.wait()

    bounded = load_settings(rpc={"drain_ms_max": 10})
    async with (
        served(bounded, Probe(effect)) as (server, lifecycle),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = asyncio.create_task(ProbeClient(channel).call("UnaryUnary", request()))
        await eventually(lambda: server.open_rpcs == 1)
        lifecycle.move(State.DRAINING)
        await server.drain()
        await server.stop()
        assert (await refused(call)).reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE


async def test_what_a_caller_left_is_cleaned_up_before_the_server_has_stopped(settings: Settings) -> None:
    may_end, cleaned = asyncio.Event(), asyncio.Event()

    async def effect(_: GetTurnRequest) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            cleaned.set()

    async with (
        served(settings, Probe(effect)) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = asyncio.create_task(ProbeClient(channel).call("UnaryUnary", request()))
        await eventually(lambda: server.open_rpcs == 1)
        call.cancel()
        stop = asyncio.create_task(server.stop())
        await asyncio.wait([call])
        may_end.set()
        await stop
        assert cleaned.is_set()


async def test_more_open_rpcs_than_the_bound_are_overload() -> None:
    may_finish = asyncio.Event()

    async def effect(_: GetTurnRequest) -> None:
        await may_finish.wait()

    async with calling(load_settings(rpc={"concurrent_rpcs_max": 2}), effect) as (client, probe):
        open_calls = [asyncio.create_task(client.call("UnaryUnary", request())) for _ in range(2)]
        await eventually(lambda: len(probe.seen) == 2)
        got = await refused(client.call("UnaryUnary", request()))
        assert got.reason == errors_pb2.ERROR_REASON_OVERLOADED
        assert got.retry_after_ms is not None
        may_finish.set()
        assert await asyncio.gather(*open_calls) == [["1"], ["1"]]
        assert await client.call("UnaryUnary", request()) == ["1"]


async def test_a_caller_that_goes_closes_its_stream_at_once(settings: Settings) -> None:
    async with calling(settings) as (client, probe):
        call = client.unary_stream(request(turn=10**9))
        await call.read()
        call.cancel()
        await eventually(lambda: probe.closed == 1)


async def test_an_unknown_method_is_unimplemented(settings: Settings) -> None:
    async with (
        served(settings, Probe()) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        nothing: Any = channel.unary_unary(f"/{SERVICE}/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await nothing(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_follows_the_lifecycle(settings: Settings) -> None:
    async with (
        served(settings, Probe(), State.STARTING) as (server, lifecycle),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        async def health() -> set[str]:
            requests = [health_pb2.HealthCheckRequest(service=name) for name in names]
            answers = [await stub.Check(each) for each in requests]
            return {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) for answer in answers}

        async def all_are(status: str) -> bool:
            return await health() == {status}

        names = ("", "isthmus.context.v1.ContextService")
        assert await all_are("NOT_SERVING")
        lifecycle.move(State.READY)
        await eventually(lambda: all_are("SERVING"))
        lifecycle.move(State.DRAINING)
        await eventually(lambda: all_are("NOT_SERVING"))


async def test_reflection_lists_the_services_even_before_ready(settings: Settings) -> None:
    async with (
        served(settings, Probe(), State.STARTING) as (server, _),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = await stub.ServerReflectionInfo(iter([asked])).read()
        names = {service.name for service in answer.list_services_response.service}
        assert {"isthmus.context.v1.ContextService", "grpc.health.v1.Health"} <= names


async def test_a_taken_port_is_an_error_that_names_it(settings: Settings) -> None:
    async with served(settings, Probe()) as (server, _):
        second = GrpcServer(RoomContext(settings, "probe-1", server.address))
        with pytest.raises(OSError, match=f"cannot listen on {server.address}"):
            await second.start()
        await second.stop()
