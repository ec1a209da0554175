"""Traces: one tracer provider a process, and trace ids that are there whether or not anything is exported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from services.config import TelemetrySettings

# Which two rooms a hop joins, as `gateway.context_store`.
HOP: Final = "isthmus.hop"

# W3C's header, which says the trace that a call belongs to.
TRACEPARENT: Final = "traceparent"

tracer: Final = trace.get_tracer("isthmus")
_ids: Final = RandomIdGenerator()
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def configure(settings: TelemetrySettings, *, room: str, member_id: str) -> None:
    """Sets the global tracer provider, unless one is set already (a test's, or an embedding application's).

    Without `otlp_endpoint` no span is recorded, which costs next to nothing, but every call still has a trace id.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    resource = Resource.create({"service.name": f"isthmus-{room}", "service.instance.id": member_id})
    if settings.otlp_endpoint is None:
        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF, resource=resource))
        return
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)), resource=resource)
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=settings.spans_queue_count_max))
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Exports what is queued. Blocks for as long as the exporter's own deadline."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def records() -> bool:
    """Whether a span may be kept anywhere. Where none is, trace ids alone are handed on, at a tenth of the cost."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, TracerProvider) or provider.sampler is not ALWAYS_OFF


@contextmanager
def continued(header: str | None) -> Iterator[None]:
    """The trace that a `traceparent` header names, or a new one, for as long as nothing is recorded."""
    found = _TRACEPARENT.fullmatch(header) if header else None
    trace_id, span_id = (int(found[1], 16), int(found[2], 16)) if found else (0, 0)
    if not (trace_id and span_id):
        trace_id, span_id = _ids.generate_trace_id(), _ids.generate_span_id()
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, is_remote=found is not None))
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


def traceparent() -> str:
    """The header for a call made now, for as long as nothing is recorded."""
    current = trace.get_current_span().get_span_context()
    trace_id, span_id = current.trace_id, current.span_id
    if not current.is_valid:
        trace_id, span_id = _ids.generate_trace_id(), _ids.generate_span_id()
    return f"00-{trace_id:032x}-{span_id:016x}-00"


def current_trace_id() -> str:
    """The trace id of the present context as 32 hex digits, or an empty string outside of any trace."""
    current = trace.get_current_span().get_span_context()
    return format(current.trace_id, "032x") if current.is_valid else ""
