"""Counts of files that are copied into libraries, in the gateway's registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.libraries.attachment import AttachmentState


class CopyMetrics:
    """Copies of this gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge(
            "isthmus_library_copies_running", "Files that this gateway copies into libraries now.", registry=registry
        )
        self._ended = Counter(
            "isthmus_library_files_ended",
            "Files that came to their end in a library, by state.",
            ("state",),
            registry=registry,
        )

    def ended(self, state: AttachmentState) -> None:
        """A file is completed, or has failed."""
        self._ended.labels(state.value).inc()
