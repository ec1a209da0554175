"""The error tree: every reason has its status, and what one room raises the next one catches."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from services.errors import (
    DETAILS_KEY,
    RETRY_AFTER_MS_DEFAULT,
    STATUS,
    FieldViolation,
    InvalidField,
    IsthmusError,
    NotFound,
    Reason,
    UpstreamUnavailable,
    from_rpc_error,
    from_status,
    http_status,
    reason_name,
    to_status,
)

REASONS = [value for value in errors_pb2.ErrorReason.values() if value != errors_pb2.ERROR_REASON_UNSPECIFIED]
text = st.text(st.characters(codec="utf-8"), max_size=40)


def rpc_error(code: grpc.StatusCode, details: str, *trailing: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


@pytest.mark.parametrize("reason", REASONS, ids=reason_name)
def test_every_reason_of_the_contract_has_a_status(reason: Reason) -> None:
    assert reason in STATUS
    assert 400 <= http_status(reason) < 600


@pytest.mark.parametrize("reason", REASONS, ids=reason_name)
def test_the_table_says_what_the_contract_says(reason: Reason) -> None:
    """The contract's comments name each status; the generated stub carries them in its docstrings."""
    said = _contract_comments()[errors_pb2.ErrorReason.Name(reason)]
    assert said.startswith(STATUS[reason].name)
    assert ("with RetryInfo" in said) == (reason in RETRY_AFTER_MS_DEFAULT)


@given(st.sampled_from(REASONS), text, st.dictionaries(text, text, max_size=3), st.none() | st.integers(0, 10**9))
def test_an_error_survives_the_wire(
    reason: Reason, message: str, metadata: dict[str, str], retry_after_ms: int | None
) -> None:
    fields = (FieldViolation("a.b", "expected c"),)
    sent = IsthmusError(reason, message, metadata=metadata, retry_after_ms=retry_after_ms, fields=fields)
    details = to_status(sent).SerializeToString()
    got = from_rpc_error(rpc_error(sent.code, message, (DETAILS_KEY, details)))
    assert (got.reason, got.message, got.metadata) == (reason, message, metadata)
    assert (got.retry_after_ms, got.fields) == (sent.retry_after_ms, fields)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE),
        (grpc.StatusCode.CANCELLED, errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors_pb2.ERROR_REASON_OVERLOADED),
        (grpc.StatusCode.UNIMPLEMENTED, errors_pb2.ERROR_REASON_INTERNAL),
    ],
)
def test_a_status_of_grpc_itself_gets_the_nearest_reason(code: grpc.StatusCode, reason: Reason) -> None:
    got = from_rpc_error(rpc_error(code, "why"))
    assert got.reason == reason
    assert "why" in got.message


@pytest.mark.parametrize("details", [b"", b"\xff\xff\xff"])
def test_details_of_a_stranger_are_passed_over(details: bytes) -> None:
    got = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "gone", (DETAILS_KEY, details)))
    assert got.reason == errors_pb2.ERROR_REASON_NOT_FOUND


def test_a_reason_of_another_domain_is_not_ours() -> None:
    status = to_status(NotFound("sessions/s1"))
    status.details[0].value = status.details[0].value.replace(b"isthmus", b"another")
    assert from_status(status) is None


def test_the_named_ones_say_what_was_expected() -> None:
    invalid = InvalidField("messages[0].text", "must not be empty")
    assert str(invalid) == "INVALID_FIELD: messages[0].text: must not be empty"
    assert invalid.fields == (FieldViolation("messages[0].text", "must not be empty"),)
    assert http_status(NotFound("sessions/s1").reason) == 404
    assert UpstreamUnavailable("no shard").retry_after_ms == 500
    assert UpstreamUnavailable("no shard", retry_after_ms=20).retry_after_ms == 20


def _contract_comments() -> dict[str, str]:
    comments: dict[str, str] = {}
    comment: list[str] = []
    source = Path(errors_pb2.__file__).with_name("errors.proto").read_text(encoding="utf-8")
    for line in map(str.strip, source.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
        else:
            if "=" in line:
                comments[line.partition(" ")[0]] = " ".join(comment)
            comment = []
    return comments
