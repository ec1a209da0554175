"""Traces: one tracer provider a process, and trace ids that are there whether or not anything is exported."""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from services.config import TelemetrySettings

# Which two rooms a hop joins, as `gateway.context_store`.
HOP: Final = "isthmus.hop"

tracer: Final = trace.get_tracer("isthmus")


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


def current_trace_id() -> str:
    """The trace id of the present context as 32 hex digits, or an empty string outside of any trace."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""
