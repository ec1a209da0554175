"""What an error of Valkey means, and how long a failover is waited for: both are decided without any I/O."""

from __future__ import annotations

import pytest
import redis.exceptions as errors
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from services.config import ValkeySettings
from services.valkey.failover import Patience, expected, passes

AWAY = [
    errors.ConnectionError("refused"),
    errors.TimeoutError("silent"),
    errors.BusyLoadingError("loading"),
    errors.ClusterDownError("the cluster is down"),
    errors.MasterDownError("link down"),
    errors.MovedError("1 127.0.0.1:2"),
    errors.AskError("1 127.0.0.1:2"),
    errors.TryAgainError("split"),
    errors.ReadOnlyError("a replica now"),
    errors.SlotNotCoveredError("slot 1"),
    errors.RedisClusterException("no node"),
    errors.ResponseError("UNBLOCKED force unblock from blocking operation"),
]
OURS = [errors.ResponseError("ERR wrong type"), errors.NoScriptError("none"), errors.DataError("two slots")]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_what_a_failover_explains_is_tried_again_and_told_with_a_time_to_come_back(error: Exception) -> None:
    assert passes(error)
    told = expected(error)
    assert told is not None
    assert told.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert told.retry_after_ms


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
def test_a_mistake_of_ours_is_neither_tried_again_nor_taken_for_an_absence(error: Exception) -> None:
    assert not passes(error)
    assert expected(error) is None


@pytest.mark.parametrize("error", [errors.AuthenticationError("wrong"), errors.MaxConnectionsError()])
def test_what_waiting_does_not_mend_is_told_at_once(error: Exception) -> None:
    assert not passes(error)
    assert expected(error) is not None


def test_a_full_valkey_is_overload() -> None:
    told = expected(errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"))
    assert told is not None
    assert told.reason == errors_pb2.ERROR_REASON_OVERLOADED
    assert told.retry_after_ms


@given(st.integers(0, 10_000), st.integers(0, 100), st.integers(1, 2_000), st.floats(0.01, 1.0), st.floats(0.0, 3.0))
def test_patience_ends_with_its_bound_however_long_attempts_take(
    wait_ms: int, least_ms: int, most_ms: int, jitter: float, attempt_s: float
) -> None:
    settings = ValkeySettings(
        failover_wait_ms_max=wait_ms, retry_backoff_ms_min=max(1, least_ms), retry_backoff_ms_max=most_ms
    )
    now = 100.0
    patience = Patience(settings, lambda: now, lambda: jitter)
    first = now
    while (pause_s := patience.pause_s()) is not None:
        assert 0 <= pause_s <= most_ms / 1000
        assert now + pause_s <= first + wait_ms / 1000 + 1e-6
        now += pause_s + attempt_s + 1e-3
    assert now - first >= wait_ms / 1000 or wait_ms == 0
