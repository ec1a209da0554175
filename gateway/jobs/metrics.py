"""Counts of jobs, in the gateway's registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.jobs.record import JobState


class JobMetrics:
    """Jobs of this gateway; the depth is the mesh's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.depth = Gauge(
            "isthmus_jobs_depth", "Turns in the queue of the mesh, those that run included.", registry=registry
        )
        self.running = Gauge(
            "isthmus_jobs_running", "Turns that this gateway runs in the background.", registry=registry
        )
        self._submitted = Counter("isthmus_jobs_submitted", "Turns taken in for the background.", registry=registry)
        self._retried = Counter(
            "isthmus_jobs_retried",
            "Attempts that failed and are made again, by reason.",
            ("reason",),
            registry=registry,
        )
        self._ended = Counter(
            "isthmus_jobs_ended", "Jobs that came to their end, by state.", ("state",), registry=registry
        )

    def submitted(self) -> None:
        """A job was taken in."""
        self._submitted.inc()

    def retried(self, reason: str) -> None:
        """Another attempt follows."""
        self._retried.labels(reason.lower()).inc()

    def ended(self, state: JobState) -> None:
        """A job is over."""
        self._ended.labels(state.value).inc()
