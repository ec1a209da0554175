"""What providers say in headers of how much they still take, and when to come again. Pure: the time is passed in.

OpenAI's shape has `x-ratelimit-remaining-requests` with a span until the reset (`6m0s`, `20ms`), Anthropic's
`anthropic-ratelimit-requests-remaining` with its time; `retry-after` is HTTP's own, in seconds or a date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from isthmus.inference.v1 import inference_service_pb2 as contract

# Nobody is believed who wants to hear nothing for longer.
WAIT_MS_MAX: Final = 3_600_000
_REMAINING: Final = {
    "requests": ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"),
    "tokens": (
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-tokens-remaining",
    ),
}
_RESET: Final = {
    "requests": ("x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset"),
    "tokens": (
        "x-ratelimit-reset-tokens",
        "anthropic-ratelimit-input-tokens-reset",
        "anthropic-ratelimit-tokens-reset",
    ),
}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_MS: Final = {"ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0}
_SECONDS: Final = re.compile(r"\d{1,12}(\.\d{1,9})?")


def limits_of(headers: Mapping[str, str], now: datetime) -> contract.ProviderLimits | None:
    """The limits in an answer's headers, whose names are in small letters; None where there are none."""
    limits = contract.ProviderLimits()
    requests, tokens = _count(headers, "requests"), _count(headers, "tokens")
    if requests is not None:
        limits.requests_remaining = requests
        limits.requests_reset_ms = _reset_ms(headers, "requests", now)
    if tokens is not None:
        limits.tokens_remaining = tokens
        limits.tokens_reset_ms = _reset_ms(headers, "tokens", now)
    return limits if requests is not None or tokens is not None else None


def as_metadata(limits: contract.ProviderLimits | None) -> dict[str, str]:
    """The limits as an error carries them."""
    if limits is None:
        return {}
    said: dict[str, str] = {}
    if limits.HasField("requests_remaining"):
        said |= {
            "requests_remaining": str(limits.requests_remaining),
            "requests_reset_ms": str(limits.requests_reset_ms),
        }
    if limits.HasField("tokens_remaining"):
        said |= {"tokens_remaining": str(limits.tokens_remaining), "tokens_reset_ms": str(limits.tokens_reset_ms)}
    return said


def retry_after_ms(headers: Mapping[str, str], now: datetime) -> int | None:
    """When to come again; None where the answer does not say."""
    exact = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(exact):
        return _bounded(float(exact))
    return _wait_ms(headers.get("retry-after", ""), now)


def _count(headers: Mapping[str, str], what: str) -> int | None:
    said = (headers[name].strip() for name in _REMAINING[what] if name in headers)
    return next((min(int(each), 2**53) for each in said if each.isdecimal() and len(each) < 19), None)


def _reset_ms(headers: Mapping[str, str], what: str, now: datetime) -> int:
    waits = (_wait_ms(headers[name], now) for name in _RESET[what] if name in headers)
    # One that does not say when is believed for a second.
    return next((wait for wait in waits if wait is not None), 1_000)


def _wait_ms(said: str, now: datetime) -> int | None:
    """Milliseconds in a number of seconds, a span such as `1m2.5s`, or until a date of HTTP or RFC 3339."""
    said = said.strip()
    if _SECONDS.fullmatch(said):
        return _bounded(float(said) * 1_000)
    parts = _SPAN.findall(said)
    if parts and "".join(number + unit for number, unit in parts) == said:
        return _bounded(sum(float(number) * _UNIT_MS[unit] for number, unit in parts))
    at = _date(said)
    return None if at is None else _bounded((at - now).total_seconds() * 1_000)


def _date(said: str) -> datetime | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = parse(said)
        except (ValueError, TypeError):
            continue
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return None


def _bounded(ms: float) -> int:
    return int(max(0.0, min(ms, WAIT_MS_MAX)))
