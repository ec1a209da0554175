"""Channels: deadlines travel, safe calls are retried, and every hop leaves one span that ends with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from isthmus.context.v1.context_service_pb2 import GetTurnRequest
from isthmus.errors.v1 import errors_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services import telemetry
from services.config import RpcSettings, Settings, load_settings
from services.errors import IsthmusError, UpstreamUnavailable
from services.rpc import Channels, without_deadline
from services.rpc.channels import service_config
from services.rpc.deadlines import remaining_s
from services.telemetry import HOP
from tests.services.probe import KINDS, SERVICE, Probe, ProbeClient, request, served
from tests.support.eventually import WAIT_S_MAX, eventually

all_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def settings() -> Settings:
    """No Valkey is needed here."""
    return load_settings()


@pytest_asyncio.fixture
async def channels(settings: Settings) -> AsyncIterator[Channels]:
    opened = Channels(settings.rpc, "gateway", retryable=[f"/{SERVICE}/UnaryUnary"])
    yield opened
    await opened.aclose()


async def test_one_channel_a_target_and_peer(channels: Channels) -> None:
    first = channels.get("127.0.0.1:1", peer="context_store")
    assert channels.get("127.0.0.1:1", peer="context_store") is first
    assert channels.get("127.0.0.1:2", peer="context_store") is not first


async def test_the_channel_not_asked_for_the_longest_makes_room(settings: Settings) -> None:
    few = Channels(settings.rpc.model_copy(update={"channels_count_max": 2}), "gateway")
    first, second = few.get("127.0.0.1:1", "probe"), few.get("127.0.0.1:2", "probe")
    assert few.get("127.0.0.1:1", "probe") is first
    few.get("127.0.0.1:3", "probe")
    assert few.get("127.0.0.1:1", "probe") is first
    assert few.get("127.0.0.1:2", "probe") is not second
    await few.aclose()


async def test_a_unary_call_without_a_deadline_gets_one(channels: Channels, settings: Settings) -> None:
    left: list[float | None] = []

    async def effect(_: GetTurnRequest) -> None:
        left.append(remaining_s())

    async with served(settings, Probe(effect)) as (server, _):
        client = ProbeClient(channels.get(server.address, peer="probe"))
        await client.call("UnaryUnary", request(), timeout=None)
        await client.call("UnaryUnary", request(), timeout=60)
        await client.call("UnaryStream", request(), timeout=None)
    bounded, given, stream = left
    # gRPC sends a timeout with three digits, rounded up.
    default_s = settings.rpc.deadline_ms_default / 1000
    assert bounded is not None
    assert 0 < bounded < default_s * 1.1
    assert given is not None
    assert given > default_s * 1.1
    assert stream is None


@all_kinds
async def test_a_call_inherits_what_is_left_of_its_callers_deadline(
    channels: Channels, settings: Settings, kind: str
) -> None:
    left: list[float | None] = []

    async def inner(_: GetTurnRequest) -> None:
        left.append(remaining_s())

    async with served(settings, Probe(inner)) as (server, _):
        behind = ProbeClient(channels.get(server.address, peer="probe"))

        async def outer(_: GetTurnRequest) -> None:
            await behind.call(kind, request(), timeout=None)
            await behind.call(kind, request(), timeout=500)
            with without_deadline():
                await behind.call(kind, request(), timeout=500)

        async with served(settings, Probe(outer)) as (front, _):
            await ProbeClient(channels.get(front.address, peer="probe")).call("UnaryUnary", request(), timeout=30)
    inherited, capped, detached = (seconds or 0 for seconds in left)
    assert 0 < inherited < 33
    assert 0 < capped < 33
    assert detached > 33


async def test_a_deadline_that_passes_cancels_the_work(channels: Channels, settings: Settings) -> None:
    cancelled = asyncio.Event()

    async def effect(_: GetTurnRequest) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with served(settings, Probe(effect)) as (server, _):
        client = ProbeClient(channels.get(server.address, peer="probe"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("UnaryUnary", request(), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(cancelled.wait(), WAIT_S_MAX)


async def test_only_what_is_safe_is_sent_again(channels: Channels, settings: Settings) -> None:
    async def effect(each: GetTurnRequest) -> None:
        if len(probe.seen) < 3:
            raise UpstreamUnavailable("not yet")

    probe = Probe(effect)
    async with served(settings, probe) as (server, _):
        client = ProbeClient(channels.get(server.address, peer="probe"))
        with pytest.raises(grpc.aio.AioRpcError):
            await client.call("StreamUnary", request())
        assert len(probe.seen) == 1
        assert await client.call("UnaryUnary", request()) == ["1"]
        assert len(probe.seen) == 3


def test_the_service_config_names_the_methods_and_the_bounds() -> None:
    config = json.loads(service_config(RpcSettings(attempts_count_max=4), ["/a.B/C", "/a.B/A"]))
    (method,) = config["methodConfig"]
    assert method["name"] == [{"service": "a.B", "method": "A"}, {"service": "a.B", "method": "C"}]
    assert method["retryPolicy"]["maxAttempts"] == 4
    assert json.loads(service_config(RpcSettings(), []))["methodConfig"] == []


@all_kinds
async def test_a_hop_is_two_spans_of_one_trace(
    channels: Channels, settings: Settings, spans: InMemorySpanExporter, kind: str
) -> None:
    inside: list[int] = []

    async def effect(_: GetTurnRequest) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)

    async with served(settings, Probe(effect)) as (server, _):
        client = ProbeClient(channels.get(server.address, peer="context_store"))
        with trace.get_tracer("test").start_as_current_span("root") as root:
            await client.call(kind, request())
        client_span, server_span = await _hop(spans)
    assert client_span.attributes is not None
    assert client_span.attributes[HOP] == "gateway.context_store"
    assert client_span.attributes["rpc.method"] == kind
    assert client_span.attributes["rpc.grpc.status_code"] == 0
    assert client_span.parent == root.get_span_context()
    assert server_span.parent is not None
    assert server_span.parent.span_id == client_span.context.span_id
    assert inside == [server_span.context.span_id]


@all_kinds
async def test_an_error_is_on_both_spans(
    channels: Channels, settings: Settings, spans: InMemorySpanExporter, kind: str
) -> None:
    async def effect(_: GetTurnRequest) -> None:
        raise IsthmusError(errors_pb2.ERROR_REASON_WINDOW_CHANGED, "another epoch")

    async with served(settings, Probe(effect)) as (server, _):
        with pytest.raises(grpc.aio.AioRpcError):
            await ProbeClient(channels.get(server.address, peer="context_store")).call(kind, request())
        for span in await _hop(spans):
            assert span.attributes is not None
            assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.FAILED_PRECONDITION.value[0]


@all_kinds
async def test_a_cancelled_call_ends_both_spans(
    channels: Channels, settings: Settings, spans: InMemorySpanExporter, kind: str
) -> None:
    entered = asyncio.Event()

    async def effect(_: GetTurnRequest) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with served(settings, Probe(effect)) as (server, _):
        client = ProbeClient(channels.get(server.address, peer="context_store"))
        call = asyncio.create_task(client.call(kind, request()))
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        for span in await _hop(spans):
            assert span.attributes is not None
            assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]


async def test_a_stream_that_is_left_half_read_ends_its_span(
    channels: Channels, settings: Settings, spans: InMemorySpanExporter
) -> None:
    async with served(settings, Probe()) as (server, _):
        call = ProbeClient(channels.get(server.address, peer="context_store")).unary_stream(request(turn=10**9))
        await call.read()
        assert not spans.get_finished_spans()
        call.cancel()
        await _hop(spans)


async def _hop(spans: InMemorySpanExporter) -> tuple[ReadableSpan, ReadableSpan]:
    def finished() -> dict[trace.SpanKind, ReadableSpan]:
        by_kind = {span.kind: span for span in spans.get_finished_spans() if span.name != "root"}
        return by_kind if len(by_kind) == 2 else {}

    by_kind = await eventually(finished)
    return by_kind[trace.SpanKind.CLIENT], by_kind[trace.SpanKind.SERVER]


@all_kinds
async def test_a_trace_goes_through_all_hops_where_nobody_records_it(
    channels: Channels, settings: Settings, kind: str, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "records", lambda: False)
    seen: list[str] = []

    async def inner(_: GetTurnRequest) -> None:
        seen.append(telemetry.current_trace_id())

    async with served(settings, Probe(inner)) as (server, _):
        behind = ProbeClient(channels.get(server.address, peer="context_store"))

        async def outer(each: GetTurnRequest) -> None:
            seen.append(telemetry.current_trace_id())
            await behind.call(kind, each)

        async with served(settings, Probe(outer)) as (front, _):
            client = ProbeClient(channels.get(front.address, peer="gateway"))
            with telemetry.continued("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
                await client.call("UnaryUnary", request())
            await client.call("UnaryUnary", request())
    assert seen[:2] == ["4bf92f3577b34da6a3ce929d0e0e4736"] * 2
    # Who comes without a trace begins one.
    assert seen[2] == seen[3] != seen[0]
    assert int(seen[2], 16)
    assert not spans.get_finished_spans()
