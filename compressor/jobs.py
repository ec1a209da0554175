"""The jobs that this room takes from the queue, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import grpc
import structlog
from docket import Docket, ExponentialRetry
from isthmus.errors.v1 import errors_pb2

from compressor.critic.audit import GONE, AuditedTurn, Auditor
from compressor.documents import DocumentEmbedder, DocumentPlace
from compressor.segments import Segment, SegmentSummariser
from services.config import CompressorSettings
from services.errors import IsthmusError
from services.jobs import AUDIT_TURN, EMBED_DOCUMENT, SUMMARISE_SEGMENT

# The work has lost its object: nothing to do, and nothing to repair.
_GONE: Final = frozenset({errors_pb2.ERROR_REASON_NOT_FOUND, errors_pb2.ERROR_REASON_SUMMARY_SOURCE_CHANGED})
_TRANSIENT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)

_log = structlog.get_logger("jobs")


def register(
    queue: Docket, summariser: SegmentSummariser, embedder: DocumentEmbedder, settings: CompressorSettings
) -> None:
    """Has the queue's worker do the mesh's jobs. What waiting helps is tried again, with backoff and a bound."""
    patience = _patience(settings)

    async def summarise_segment(
        tenant: str, session: str, first_sequence: int, last_sequence: int, retry: ExponentialRetry = patience
    ) -> None:
        segment = Segment(tenant, session, first_sequence, last_sequence)
        counted = retry.attempt <= settings.job_counted_attempts_count_max
        with _judged("summary", retry, session=session, first=first_sequence, last=last_sequence):
            await summariser.summarise(segment, counted=counted)

    async def embed_document(tenant: str, session: str, document: str, retry: ExponentialRetry = patience) -> None:
        with _judged("vectors", retry, session=session, document=document):
            await embedder.embed(DocumentPlace(tenant, session, document))

    queue.register(summarise_segment, names=[SUMMARISE_SEGMENT])
    queue.register(embed_document, names=[EMBED_DOCUMENT])


def register_audits(queue: Docket, auditor: Auditor, settings: CompressorSettings) -> None:
    """The same with audits. One that is given up is counted."""
    patience = _patience(settings)

    async def audit_turn(tenant: str, session: str, turn: int, retry: ExponentialRetry = patience) -> None:
        try:
            await auditor.audit(AuditedTurn(tenant, session, turn))
        except IsthmusError as error:
            log = _log.bind(session=session, turn=turn, attempt=retry.attempt)
            is_last = retry.attempt >= settings.job_attempts_count_max
            if error.reason in GONE:
                auditor.metrics.audited("gone")
                log.info("audit not possible any more", error=error.message)
            elif error.code in _TRANSIENT and not is_last:
                log.warning("audit later", error=error.message, retry_ms=retry.delay // timedelta(milliseconds=1))
                raise
            else:
                auditor.metrics.audited("given_up")
                log.error("audit given up", error=error.message)

    queue.register(audit_turn, names=[AUDIT_TURN])


def _patience(settings: CompressorSettings) -> ExponentialRetry:
    return ExponentialRetry(
        attempts=settings.job_attempts_count_max,
        minimum_delay=timedelta(milliseconds=settings.job_retry_ms_min),
        maximum_delay=timedelta(milliseconds=settings.job_retry_ms_max),
    )


@contextmanager
def _judged(what: str, retry: ExponentialRetry, **of: str | int) -> Iterator[None]:
    """Lets an error through that waiting helps; of others, a line in the log is left."""
    try:
        yield
    except IsthmusError as error:
        log = _log.bind(attempt=retry.attempt, **of)
        if error.reason in _GONE:
            log.info(f"{what} not needed any more", error=error.message)
        elif error.code in _TRANSIENT:
            log.warning(f"{what} later", error=error.message, retry_ms=retry.delay // timedelta(milliseconds=1))
            raise
        else:
            log.error(f"{what} given up", error=error.message)
