"""Every hop of a turn is one trace, from either edge to the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from services.config import Settings
from services.telemetry import HOP
from tests.gateway.client import connected, turn_request
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh
from tests.support.spans import recorder

HOPS = {
    "gateway.context_store",
    "context_store.valkey",
    "gateway.inference",
    "inference.context_store",
    "inference.engine",
}
# A history that is too long to travel in a manifest makes the replica pull its window from the shard.
HISTORY = b"The isthmus joins two lands. " * 20_000


@pytest_asyncio.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    async with running_mesh(changed(settings, "inference", engine="scripted")) as running:
        yield running


async def the_turns_trace(exporter: InMemorySpanExporter, root_name: str) -> list[ReadableSpan]:
    """The spans of the trace that begins with the edge's span, once all of them have ended."""

    def spans() -> list[ReadableSpan]:
        ended = exporter.get_finished_spans()
        roots = [span for span in ended if root_name in span.name and _parent_id(span) not in _ids(ended)]
        if not roots:
            return []
        trace = [span for span in ended if _trace_id(span) == _trace_id(roots[-1])]
        return trace if {_hop(span) for span in trace} >= HOPS else []

    return await eventually(spans, message=f"a trace from {root_name} over {sorted(HOPS)}")


def assert_is_one_tree(trace: list[ReadableSpan]) -> None:
    """Each span but the first is some other one's child: nothing began a trace, or a branch, of its own."""
    ids = _ids(trace)
    orphans = [span.name for span in trace if _parent_id(span) not in ids]
    assert len(orphans) == 1, orphans


def _context(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def _trace_id(span: ReadableSpan) -> int:
    return _context(span).trace_id


def _ids(spans: list[ReadableSpan] | tuple[ReadableSpan, ...]) -> set[int]:
    return {_context(span).span_id for span in spans}


def _parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def _hop(span: ReadableSpan) -> object:
    return (span.attributes or {}).get(HOP)


async def test_a_turn_over_grpc_is_one_trace(mesh: Mesh) -> None:
    async with connected(mesh.grpc_target) as client:
        await client.create("traced")
        await client.ingest("traced", "history", HISTORY)
        exporter = recorder()
        turn = await client.turn(turn_request("traced", "What joins two lands?"))
    trace = await the_turns_trace(exporter, "RunTurn")
    assert_is_one_tree(trace)
    assert turn.receipt.trace_id == format(_trace_id(trace[0]), "032x")


async def test_a_turn_over_http_continues_the_callers_trace(mesh: Mesh) -> None:
    async with connected(mesh.grpc_target) as client:
        await client.create("traced")
        await client.ingest("traced", "history", HISTORY)
    exporter = recorder()
    callers = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with httpx.AsyncClient(base_url=mesh.http_url) as http:
        answer = await http.post(
            "/v1/responses",
            json={"input": "What joins two lands?", "conversation": "conv_traced"},
            headers={"traceparent": f"00-{callers}-00f067aa0ba902b7-01"},
        )
    assert answer.status_code == 200, answer.text
    trace = await the_turns_trace(exporter, "POST")
    assert_is_one_tree(trace)
    assert format(_trace_id(trace[0]), "032x") == callers
