"""Every error that crosses a room's wall: one class, its reasons, and what they become on gRPC and HTTP.

A room raises `IsthmusError` (or one of the few named ones); the server's interceptor turns it into a rich gRPC status
and `from_rpc_error` turns that back into the same error in the caller. An exception of any other type is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2

DOMAIN: Final = "isthmus"
DETAILS_KEY: Final = "grpc-status-details-bin"
_PREFIX: Final = "ERROR_REASON_"

Reason: TypeAlias = errors_pb2.ErrorReason.ValueType

# The one place that says which status goes with a reason, as the contract's comments promise.
STATUS: Final[Mapping[Reason, grpc.StatusCode]] = {
    errors_pb2.ERROR_REASON_INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_INVALID_UTF8: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_UNSUPPORTED_PARAMETER: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    errors_pb2.ERROR_REASON_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    errors_pb2.ERROR_REASON_ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    errors_pb2.ERROR_REASON_REQUEST_ID_REUSED: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    errors_pb2.ERROR_REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    errors_pb2.ERROR_REASON_RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_TURN_IN_PROGRESS: grpc.StatusCode.ABORTED,
    errors_pb2.ERROR_REASON_LEASE_LOST: grpc.StatusCode.ABORTED,
    errors_pb2.ERROR_REASON_TURN_CANCELLED: grpc.StatusCode.CANCELLED,
    errors_pb2.ERROR_REASON_REVISION_CONFLICT: grpc.StatusCode.ABORTED,
    errors_pb2.ERROR_REASON_NOT_LATEST_TURN: grpc.StatusCode.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_TURN_STATE: grpc.StatusCode.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_WINDOW_CHANGED: grpc.StatusCode.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_WINDOW_OVERFLOW: grpc.StatusCode.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_TURN_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_DOCUMENT_OFFSET: grpc.StatusCode.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_DOCUMENT_INCOMPLETE: grpc.StatusCode.INVALID_ARGUMENT,
    errors_pb2.ERROR_REASON_SUMMARY_SOURCE_CHANGED: grpc.StatusCode.FAILED_PRECONDITION,
    errors_pb2.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors_pb2.ERROR_REASON_NOT_READY: grpc.StatusCode.UNAVAILABLE,
    errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors_pb2.ERROR_REASON_NOT_REPLICATED: grpc.StatusCode.UNAVAILABLE,
    errors_pb2.ERROR_REASON_SESSION_MOVED: grpc.StatusCode.UNAVAILABLE,
    errors_pb2.ERROR_REASON_ENGINE_FAILED: grpc.StatusCode.INTERNAL,
    errors_pb2.ERROR_REASON_MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    errors_pb2.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
    errors_pb2.ERROR_REASON_CORRUPT: grpc.StatusCode.DATA_LOSS,
    errors_pb2.ERROR_REASON_OUTPUT_INVALID: grpc.StatusCode.INTERNAL,
    errors_pb2.ERROR_REASON_CONTENT_BLOCKED: grpc.StatusCode.FAILED_PRECONDITION,
}

# Where waiting helps the contract promises RetryInfo; this is said when the raiser knows nothing better.
RETRY_AFTER_MS_DEFAULT: Final[Mapping[Reason, int]] = {
    errors_pb2.ERROR_REASON_RATE_LIMITED: 1_000,
    errors_pb2.ERROR_REASON_TURN_IN_PROGRESS: 200,
    errors_pb2.ERROR_REASON_REVISION_CONFLICT: 50,
    errors_pb2.ERROR_REASON_OVERLOADED: 500,
    errors_pb2.ERROR_REASON_NOT_READY: 500,
    errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE: 500,
    errors_pb2.ERROR_REASON_NOT_REPLICATED: 200,
    errors_pb2.ERROR_REASON_SESSION_MOVED: 20,
}

_HTTP: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

# What a status without our details means to the caller: it came from gRPC itself, or from a stranger.
_BARE: Final[Mapping[grpc.StatusCode, Reason]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors_pb2.ERROR_REASON_INVALID_FIELD,
    grpc.StatusCode.UNAUTHENTICATED: errors_pb2.ERROR_REASON_UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: errors_pb2.ERROR_REASON_PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND: errors_pb2.ERROR_REASON_NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors_pb2.ERROR_REASON_OVERLOADED,
    grpc.StatusCode.UNAVAILABLE: errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    grpc.StatusCode.CANCELLED: errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
}


_Detail: TypeAlias = (
    error_details_pb2.ErrorInfo
    | error_details_pb2.RetryInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.QuotaFailure
)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks its rule: its dotted path in the request, and what was expected of it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """A bound that is reached: `sessions/{session}`, `tenants/{tenant}`, `users/{user}` or `addresses/{address}`, and
    which bound it is.
    """

    subject: str
    description: str


class IsthmusError(Exception):
    """An expected error: what was wrong, what was expected, and whether a retry helps.

    `reason` is a value of `isthmus.errors.v1.ErrorReason`; it alone decides the gRPC code and the HTTP status.
    `retry_after_ms` is how long to wait before the same call may succeed, None where waiting does not help.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
        fields: Iterable[FieldViolation] = (),
        quotas: Iterable[QuotaViolation] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_ms = RETRY_AFTER_MS_DEFAULT.get(reason) if retry_after_ms is None else retry_after_ms
        self.fields: tuple[FieldViolation, ...] = tuple(fields)
        self.quotas: tuple[QuotaViolation, ...] = tuple(quotas)

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code of the reason."""
        return STATUS[self.reason]

    def __str__(self) -> str:
        return f"{reason_name(self.reason)}: {self.message}"


class InvalidField(IsthmusError):  # noqa: N818
    """A field of the request breaks its rule: its dotted path, and what was expected."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(
            errors_pb2.ERROR_REASON_INVALID_FIELD,
            f"{field}: {description}",
            fields=(FieldViolation(field, description),),
        )


class NotFound(IsthmusError):  # noqa: N818
    """The resource does not exist, or belongs to another tenant: both answer alike. `what` is its name."""

    def __init__(self, what: str) -> None:
        super().__init__(
            errors_pb2.ERROR_REASON_NOT_FOUND, f"{what} does not exist; expected the name of one that does"
        )


class UpstreamUnavailable(IsthmusError):  # noqa: N818
    """A room behind this one, or Valkey, cannot be reached now."""

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, message, retry_after_ms=retry_after_ms)


def reason_name(reason: Reason) -> str:
    """The reason as ErrorInfo carries it: `TURN_IN_PROGRESS`, without the enum's prefix."""
    return errors_pb2.ErrorReason.Name(reason).removeprefix(_PREFIX)


def http_status(reason: Reason) -> int:
    """The HTTP status that goes with a reason."""
    return _HTTP[STATUS[reason]]


def to_status(error: IsthmusError) -> status_pb2.Status:
    """The rich status: code, message and ErrorInfo; RetryInfo, BadRequest and QuotaFailure where they apply."""
    details: list[_Detail] = [
        error_details_pb2.ErrorInfo(reason=reason_name(error.reason), domain=DOMAIN, metadata=error.metadata)
    ]
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.fields:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=each.field, description=each.description)
                    for each in error.fields
                ]
            )
        )
    if error.quotas:
        violations = [
            error_details_pb2.QuotaFailure.Violation(subject=each.subject, description=each.description)
            for each in error.quotas
        ]
        details.append(error_details_pb2.QuotaFailure(violations=violations))
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def from_status(status: status_pb2.Status) -> IsthmusError | None:
    """The error that `to_status` packed, or None if the status is not one of ours."""
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    for detail in status.details:
        _unpack(detail, info, retry, bad, quota)
    known = info.domain == DOMAIN and _PREFIX + info.reason in errors_pb2.ErrorReason.keys()  # noqa: SIM118
    if not known:
        return None
    return IsthmusError(
        errors_pb2.ErrorReason.Value(_PREFIX + info.reason),
        status.message,
        metadata=info.metadata,
        retry_after_ms=retry.retry_delay.ToMilliseconds() if retry.HasField("retry_delay") else None,
        fields=[FieldViolation(each.field, each.description) for each in bad.field_violations],
        quotas=[QuotaViolation(each.subject, each.description) for each in quota.violations],
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> IsthmusError:
    """The error that the server raised, or the nearest reason where gRPC itself, or a stranger, answered."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            ours = _parse_details(value)
            if ours is not None:
                return ours
    details = error.details() or "no details"
    if "larger than max" in details:
        return IsthmusError(errors_pb2.ERROR_REASON_INVALID_FIELD, f"the message is over the bound: {details}")
    reason = _BARE.get(error.code(), errors_pb2.ERROR_REASON_INTERNAL)
    return IsthmusError(reason, f"{error.code().name}: {details}")


def _parse_details(value: bytes) -> IsthmusError | None:
    try:
        return from_status(status_pb2.Status.FromString(value))
    except DecodeError:
        return None


def _unpack(detail: any_pb2.Any, *targets: _Detail) -> None:
    for target in targets:
        if detail.Is(target.DESCRIPTOR):
            detail.Unpack(target)
