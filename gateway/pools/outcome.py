"""What the end of a call says of the one who was called. Pure.

An engine before a provider marks what the provider did: the error's metadata names it under `provider`, with the HTTP
status, or `timeout`, `closed`, `error`. Only these count against a pool. A replica that is merely away is the
membership's business, and one that is full says so for itself alone.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from isthmus.errors.v1 import errors_pb2

from gateway.pools.limit import Quota
from services.errors import IsthmusError

PROVIDER: Final = "provider"
# Why a pool takes no turn, in the errors of turns that no pool takes.
STANDING: Final = "standing"


class Verdict(enum.Enum):
    """Whose fault an error is."""

    # The request's, the caller's, or nobody's.
    NEUTRAL = "neutral"
    # The replica does not answer or takes nothing new: worth waiting for.
    AWAY = "away"
    # The replica's queue is full.
    FULL = "full"
    # The provider has too many requests.
    REFUSED = "refused"
    # The provider failed.
    FAILED = "failed"


_AWAY: Final = frozenset({errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, errors_pb2.ERROR_REASON_NOT_READY})


def judge(error: IsthmusError) -> Verdict:
    """Whose fault it was that a call ended so."""
    if PROVIDER in error.metadata:
        return Verdict.REFUSED if error.reason == errors_pb2.ERROR_REASON_OVERLOADED else Verdict.FAILED
    if error.reason == errors_pb2.ERROR_REASON_OVERLOADED:
        return Verdict.FULL
    return Verdict.AWAY if error.reason in _AWAY else Verdict.NEUTRAL


def is_settled(error: IsthmusError) -> bool:
    """Whether waiting is no use: a provider has failed, or no pool takes the turn."""
    return PROVIDER in error.metadata or STANDING in error.metadata


def quota(said: Mapping[str, str], what: str) -> Quota | None:
    """The quota of `requests` or `tokens` in an error's metadata; None where it says none."""
    try:
        return Quota(int(said[f"{what}_remaining"]), int(said[f"{what}_reset_ms"]) / 1000)
    except (KeyError, ValueError):
        return None
