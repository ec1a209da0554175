"""What the critic finds, for Prometheus: claims by model and verdict, of audits that this member kept."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from services.audits.record import AuditRecord


class CriticMetrics:
    """A registry of its own, since several rooms may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._audits = Counter(
            "isthmus_audits_ended", "Audits of turns, by what became of them.", ("outcome",), registry=self.registry
        )
        self._claims = Counter(
            "isthmus_audited_claims",
            "Claims of audited replies, by the verdict on them: what is not supported is the hallucination rate.",
            ("model", "verdict"),
            registry=self.registry,
        )
        self._fallbacks = Counter(
            "isthmus_audit_fallbacks",
            "Audits judged by words alone, since the critic model had no verdict.",
            registry=self.registry,
        )

    def audited(self, outcome: str) -> None:
        """An audit came to its end: `new`, `already`, `day_full`, `nothing`, `gone` or `given_up`."""
        self._audits.labels(outcome).inc()

    def judged(self, record: AuditRecord) -> None:
        """A verdict was kept."""
        for verdict, count in record.counts().items():
            if verdict != "audits":
                self._claims.labels(record.model, verdict).inc(count)

    def fell_back(self) -> None:
        """The critic model failed."""
        self._fallbacks.inc()

    def exposition(self) -> bytes:
        """For `/metrics`."""
        return generate_latest(self.registry)
