"""Whatever goes wrong at the HTTP edge, as OpenAI's error object: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import structlog
from isthmus.errors.v1 import errors_pb2
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from gateway.http.objects import ErrorBody, ErrorDetail
from services.errors import FieldViolation, IsthmusError, http_status, reason_name
from services.telemetry import current_trace_id

CLIENT_GONE = 499
# What the OpenAPI document says of errors, instead of Litestar's own shape.
ERRORS: Final = {
    400: ResponseSpec(ErrorBody, description="The request is wrong; `param` says where.", generate_examples=False),
    401: ResponseSpec(ErrorBody, description="No API key, or none that is valid now.", generate_examples=False),
    403: ResponseSpec(ErrorBody, description="The key lacks the scope that is named.", generate_examples=False),
    404: ResponseSpec(ErrorBody, description="What was named does not exist.", generate_examples=False),
    409: ResponseSpec(ErrorBody, description="Another turn is in progress; Retry-After.", generate_examples=False),
    429: ResponseSpec(ErrorBody, description="A limit is reached, or too much to do.", generate_examples=False),
    503: ResponseSpec(ErrorBody, description="Not now; Retry-After.", generate_examples=False),
}
_log = structlog.get_logger(__name__)

# Where the turn's own field goes by another name in OpenAI's request.
_RENAMED = {
    "params.structured_output": "text.format",
    "params.min_output_tokens": "min_tokens",
    "params.": "",
    "request_id": "Idempotency-Key",
}
_NO_QUOTA = "insufficient_quota"
# Where OpenAI has a code for what ours says.
_CODES = {
    errors_pb2.ERROR_REASON_UNAUTHENTICATED: "invalid_api_key",
    errors_pb2.ERROR_REASON_WINDOW_OVERFLOW: "context_length_exceeded",
    errors_pb2.ERROR_REASON_TURN_TOO_LARGE: "context_length_exceeded",
    errors_pb2.ERROR_REASON_RATE_LIMITED: "rate_limit_exceeded",
    errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED: _NO_QUOTA,
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):  # noqa: N818
    """A request refused by the HTTP edge itself: the status, OpenAI's code, the parameter and what to do about it."""

    def __init__(self, status: int, code: str, param: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.message = message


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is answered."""

    status: int
    message: str
    param: str | None
    code: str
    retry_after_ms: int | None = None

    @property
    def body(self) -> ErrorBody:
        """OpenAI's error object."""
        kind = (
            _NO_QUOTA
            if self.code == _NO_QUOTA
            else _TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        )
        return ErrorBody(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))

    @property
    def headers(self) -> dict[str, str]:
        """When to come again, in seconds for everybody, in milliseconds for OpenAI's SDKs; or what else to know."""
        if self.status == HTTPStatus.REQUEST_TIMEOUT:
            # What may still come of that body is nobody's next request.
            return {"connection": "close"}
        if self.status == HTTPStatus.UNAUTHORIZED:
            # RFC 9110 wants the scheme named.
            return {"www-authenticate": "Bearer"}
        if self.code == _NO_QUOTA:
            # OpenAI's SDKs try every 429 again, unless they are told that it is of no use.
            return {"x-should-retry": "false"}
        if self.retry_after_ms is None:
            return {}
        seconds = -(-self.retry_after_ms // 1000)
        return {"retry-after": str(max(1, seconds)), "retry-after-ms": str(self.retry_after_ms)}


def problem_of(error: Exception, method: str, path: str) -> Problem:
    """The answer to an error of any kind; what is unexpected becomes a 500 that carries the trace id alone."""
    match error:
        case Refusal():
            return Problem(error.status, error.message, error.param, error.code)
        case IsthmusError():
            return _of_mesh(error)
        case ValidationException():
            return _of_query(error)
        case HTTPException() if error.status_code < 500:
            return _of_route(error, method, path)
        case _:
            message = f"an internal error; its trace id is {current_trace_id()}"
            return Problem(500, message, None, "internal")


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Litestar's handler of every exception."""
    problem = problem_of(error, request.method, request.url.path)
    if problem.status >= 500 and not isinstance(error, IsthmusError):
        _log.error("http_request_failed", path=request.url.path, exc_info=error)
    return Response(problem.body, status_code=problem.status, headers=problem.headers)


@contextmanager
def naming(param: str, value: str) -> Iterator[None]:
    """Within, what the store does not find is told by the name that the client used; if it used none, as it is."""
    try:
        yield
    except IsthmusError as error:
        if error.reason != errors_pb2.ERROR_REASON_NOT_FOUND or not value:
            raise
        raise missing(param, value) from error


def missing(param: str, value: str) -> IsthmusError:
    """NOT_FOUND of what the client named."""
    return IsthmusError(
        errors_pb2.ERROR_REASON_NOT_FOUND,
        f"{param}: {value} does not exist; expected an id that an earlier answer gave",
        fields=[FieldViolation(param, "does not exist")],
    )


def _of_mesh(error: IsthmusError) -> Problem:
    field = error.fields[0].field if error.fields else ""
    message, param = error.message, field
    for ours, theirs in _RENAMED.items():
        if field.startswith(ours):
            param = theirs + field.removeprefix(ours)
            message = message.replace(field, param, 1)
            break
    return Problem(
        status=http_status(error.reason),
        message=message,
        param=param or None,
        code=_CODES.get(error.reason) or reason_name(error.reason).lower(),
        retry_after_ms=error.retry_after_ms,
    )


def _of_query(error: ValidationException) -> Problem:
    """Litestar's complaints about query parameters: one line each, the first one's name as `param`."""
    complaints = [each for each in error.extra or () if isinstance(each, dict)]
    lines = [f"{each.get('key', 'request')}: {each['message'][:1].lower()}{each['message'][1:]}" for each in complaints]
    param = str(complaints[0].get("key")) if complaints else None
    return Problem(400, "; ".join(lines) or error.detail, param, "invalid_value")


def _of_route(error: HTTPException, method: str, path: str) -> Problem:
    status = error.status_code
    messages = {
        404: f"{method} {path} is nothing that is served here; /schema/openapi.json lists what is",
        405: f"{method} is not allowed on {path}; /schema/openapi.json lists what is",
    }
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return Problem(status, messages.get(status, error.detail), None, code)
