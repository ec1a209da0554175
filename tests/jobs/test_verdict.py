"""Which attempts are made again, when, and which addresses events may go to: the pure parts."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2
from standardwebhooks import Webhook

from gateway.jobs.record import JobRecord, JobState, decode, driver_of, encode
from gateway.jobs.verdict import backoff_ms, delay_ms
from gateway.webhooks.addresses import ForbiddenAddressError, chosen, is_public
from gateway.webhooks.event import event_of, headers
from services.config import JobSettings
from services.errors import InvalidField, IsthmusError
from services.webhooks.endpoint import EVENTS, checked_url, created

SETTINGS = JobSettings(retry_ms_min=100, retry_ms_max=5_000, attempts_count_max=8)
REASONS = [each for each in errors_pb2.ErrorReason.values() if each]
PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
    "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "198.18.0.1", "240.0.0.1",
]  # fmt: skip


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_double_within_their_bounds_half_of_each_by_chance(attempt: int, random: float) -> None:
    wait = backoff_ms(attempt, 100, 5_000, random)
    longest = min(100 * 2 ** min(attempt - 1, 20), 5_000)
    assert longest // 2 <= wait <= longest


@given(st.sampled_from(REASONS), st.integers(1, 20), st.floats(0, 1, exclude_max=True), st.integers(0, 10**6))
def test_what_is_tried_again_ends(reason: int, attempt: int, random: float, retry_after_ms: int) -> None:
    error = IsthmusError(errors_pb2.ErrorReason.ValueType(reason), "no", retry_after_ms=retry_after_ms)
    wait = delay_ms(error, attempt, SETTINGS, random)
    if attempt >= SETTINGS.attempts_count_max:
        assert wait is None
    if wait is not None:
        assert min(retry_after_ms, SETTINGS.retry_ms_max) <= wait <= SETTINGS.retry_ms_max


@pytest.mark.parametrize("reason", ["UPSTREAM_UNAVAILABLE", "OVERLOADED", "NOT_READY", "LEASE_LOST"])
def test_what_passes_is_tried_again(reason: str) -> None:
    error = IsthmusError(errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"), "later")
    assert delay_ms(error, 1, SETTINGS, 0.5) is not None


@pytest.mark.parametrize("reason", ["TURN_TOO_LARGE", "INVALID_FIELD", "INTERNAL", "TURN_CANCELLED", "NOT_FOUND"])
def test_what_no_attempt_would_change_is_not(reason: str) -> None:
    error = IsthmusError(errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"), "never")
    assert delay_ms(error, 1, SETTINGS, 0.5) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_no_event_goes_to_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(ForbiddenAddressError, match="private_allowed"):
        chosen("host", ["93.184.215.14", address], private_allowed=False)
    assert chosen("host", [address], private_allowed=True) == address


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_public_as_each_ipv6_address_that_carries_it(address: ipaddress.IPv4Address) -> None:
    for carrying in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(carrying) <= is_public(str(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "1.1.1.1"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


def test_a_signature_is_verified_by_the_library_and_an_altered_body_is_not() -> None:
    endpoint = created(
        "t", "https://example.com/hook", ["response.completed"], now_ms=1, random_bytes=lambda n: b"x" * n
    )
    turn = turn_pb2.Turn(state=turn_pb2.Turn.STATE_DONE)
    event = event_of("key", "resp_s1_1", turn, 1_700_000_000)
    assert event == event_of("key", "resp_s1_1", turn, 1_700_000_000)
    sent = headers(endpoint.secret, event.id, event.body, time.time())
    assert Webhook(endpoint.secret).verify(event.body, sent)["data"] == {"id": "resp_s1_1"}
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(endpoint.secret).verify(event.body.replace(b"s1", b"s2"), sent)


def test_an_endpoint_takes_what_it_has_asked_for() -> None:
    some = created("t", "https://example.com", ["response.failed"], now_ms=1, random_bytes=bytes)
    every = created("t", "https://example.com", [], now_ms=1, random_bytes=bytes)
    assert [each for each in EVENTS if some.takes(each)] == ["response.failed"]
    assert all(every.takes(each) for each in EVENTS)
    with pytest.raises(InvalidField, match="expected one of"):
        created("t", "https://example.com", ["response.eaten"], now_ms=1, random_bytes=bytes)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "https://",
        "https://u:p@host/",
        "https://host/#a",
        "file:///etc/passwd",
        "https://ho st/",
        "https://h:99999/",
        "x" * 3_000,
    ],
)
def test_what_is_no_url_for_events_is_refused(url: str) -> None:
    with pytest.raises(InvalidField, match="url"):
        checked_url(url)


@given(st.text(), st.integers(1, 10**9), st.binary(max_size=64), st.sampled_from(JobState))
def test_a_record_is_read_as_it_was_written(request_id: str, turn: int, incarnation: bytes, state: JobState) -> None:
    record = JobRecord(
        tenant="t", session="s", turn=turn, incarnation=incarnation, request_id=request_id, state=state, create_ms=1
    )
    stored = encode(record)
    assert decode(stored) == record
    assert stored.startswith(record.key.encode())


def test_a_queued_turns_driver_is_the_same_for_the_same_request_alone() -> None:
    assert driver_of("t", "s", "r") == driver_of("t", "s", "r")
    assert (
        len({driver_of("t", "s", "r"), driver_of("u", "s", "r"), driver_of("t", "s2", "r"), driver_of("t", "s", "q")})
        == 4
    )
