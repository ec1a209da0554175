"""What providers say in headers of what they still take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engines.limits import WAIT_MS_MAX, as_metadata, limits_of, retry_after_ms

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def test_openai_tells_what_is_left_and_a_span() -> None:
    limits = limits_of(
        {
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1m2.5s",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6ms",
        },
        NOW,
    )
    assert limits is not None
    assert (limits.requests_remaining, limits.requests_reset_ms) == (59, 62_500)
    assert (limits.tokens_remaining, limits.tokens_reset_ms) == (149_984, 6)
    assert as_metadata(limits)["requests_reset_ms"] == "62500"


def test_anthropic_tells_what_is_left_and_a_time() -> None:
    limits = limits_of(
        {
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:30Z",
            "anthropic-ratelimit-input-tokens-remaining": "1000",
            "anthropic-ratelimit-input-tokens-reset": "2026-11-21T11:59:00Z",
            "anthropic-ratelimit-tokens-remaining": "5000",
        },
        NOW,
    )
    assert limits is not None
    assert (limits.requests_remaining, limits.requests_reset_ms) == (0, 30_000)
    assert (limits.tokens_remaining, limits.tokens_reset_ms) == (1_000, 0), "a time that is past"


def test_who_says_nothing_has_no_limits() -> None:
    assert limits_of({"x-ratelimit-remaining-requests": "many", "date": "today"}, NOW) is None
    assert as_metadata(None) == {}


@pytest.mark.parametrize(
    ("headers", "ms"),
    [
        ({"retry-after": "7"}, 7_000),
        ({"retry-after": "0.25"}, 250),
        ({"retry-after-ms": "120", "retry-after": "7"}, 120),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:09 GMT"}, 9_000),
        ({"retry-after": "99999999"}, WAIT_MS_MAX),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_the_time_to_come_again_is_read_in_all_its_forms(headers: dict[str, str], ms: int | None) -> None:
    assert retry_after_ms(headers, NOW) == ms


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_breaks_a_request(count: str, reset: str) -> None:
    headers = {"x-ratelimit-remaining-requests": count, "x-ratelimit-reset-requests": reset, "retry-after": reset}
    limits = limits_of(headers, NOW)
    assert limits is None or 0 <= limits.requests_reset_ms <= WAIT_MS_MAX
    wait = retry_after_ms(headers, NOW)
    assert wait is None or 0 <= wait <= WAIT_MS_MAX


@given(st.integers(0, 3_000_000))
def test_a_date_is_as_far_as_it_is(ms: int) -> None:
    at = NOW + timedelta(milliseconds=ms)
    assert retry_after_ms({"retry-after": at.isoformat()}, NOW) == pytest.approx(ms, abs=1)
