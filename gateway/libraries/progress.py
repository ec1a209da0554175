"""What becomes of a file on its way into a library: the next record, and what to do. Pure; times in ms since 1970."""

from __future__ import annotations

from typing import Final

import msgspec
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import document_pb2

from gateway.jobs.verdict import backoff_ms
from gateway.libraries.attachment import Attachment, AttachmentState, ErrorCode
from services.config import LibrariesSettings
from services.errors import IsthmusError, reason_name

# Nothing that another attempt would find otherwise; what is not named here may pass.
_INVALID: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_NOT_FOUND,
        errors_pb2.ERROR_REASON_INVALID_UTF8,
        errors_pb2.ERROR_REASON_INVALID_FIELD,
    }
)
_FINAL: Final = frozenset(
    {
        errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        errors_pb2.ERROR_REASON_CORRUPT,
        errors_pb2.ERROR_REASON_INTERNAL,
    }
)
# Polls grow rarer with what was waited for already, down to one in so many ms.
_POLL_MS_MAX: Final = 5_000
_MESSAGE_CHARS_MAX: Final = 500


def copied(record: Attachment, document: document_pb2.Document, now_ms: int) -> Attachment:
    """The record once the text is in the log, as far as it is."""
    is_whole = document.state == document_pb2.Document.STATE_COMPLETE
    has_moved = document.committed_bytes > record.text_bytes
    return msgspec.structs.replace(
        record,
        text_bytes=document.committed_bytes,
        failures=0 if has_moved else record.failures,
        copied_ms=(record.copied_ms or now_ms) if is_whole else 0,
    )


def embedded(
    record: Attachment, document: document_pb2.Document, now_ms: int, settings: LibrariesSettings
) -> tuple[Attachment, int | None]:
    """The record of a document that is whole, and in how many ms to look again; None where nothing more is to come."""
    if document.error.code:
        return failed(record, ErrorCode.SERVER, document.error.message), None
    # A document without a word has no passages, and nobody's vectors.
    if document.embedder and document.embedded_count >= document.passage_count:
        return msgspec.structs.replace(record, state=AttachmentState.COMPLETED, failures=0), None
    waited_ms = max(0, now_ms - record.copied_ms)
    if waited_ms > settings.embed_ms_max:
        had = f"{document.embedded_count} of {document.passage_count or 'its'} passages have vectors"
        message = f"{had} after {settings.embed_ms_max} ms (gateway.libraries.embed_ms_max); words find it all the same"
        return failed(record, ErrorCode.SERVER, message), None
    return record, min(max(settings.embed_poll_ms, waited_ms // 4), max(settings.embed_poll_ms, _POLL_MS_MAX))


def missed(
    record: Attachment, error: IsthmusError, settings: LibrariesSettings, random: float
) -> tuple[Attachment, int | None]:
    """The record after an attempt that failed, and the wait before the next one; None where there is none.

    `random` is in [0, 1).
    """
    if error.reason in _INVALID:
        return failed(record, ErrorCode.INVALID, error.message), None
    failures = record.failures + 1
    after = msgspec.structs.replace(record, failures=failures)
    if error.reason in _FINAL or failures >= settings.attempts_count_max:
        return failed(after, ErrorCode.SERVER, f"{reason_name(error.reason)}: {error.message}"), None
    return after, backoff_ms(failures, settings.retry_ms_min, settings.retry_ms_max, random)


def failed(record: Attachment, code: ErrorCode, message: str) -> Attachment:
    """The record of a file that came to nothing."""
    return msgspec.structs.replace(
        record, state=AttachmentState.FAILED, error=code.value, message=message[:_MESSAGE_CHARS_MAX]
    )


def cancelled(record: Attachment) -> Attachment:
    """The record of a file that is not wanted any more."""
    return msgspec.structs.replace(record, state=AttachmentState.CANCELLED)
