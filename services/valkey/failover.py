"""What an error of Valkey means to the command that met it, and how long a failover is waited for. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Final

from isthmus.errors.v1 import errors_pb2
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ClusterError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import TimeoutError as ValkeyTimeoutError

from services.config import ValkeySettings
from services.errors import IsthmusError, UpstreamUnavailable
from services.valkey.refusals import UntrustedError

# Said by nodes whose role has just changed, or changes now.
_ROLE_CHANGES: Final = ("UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN", "LOADING")
_AWAY: Final = (ValkeyConnectionError, ValkeyTimeoutError, ClusterError, ReadOnlyError, TryAgainError, AskError)
_HOPELESS: Final = (AuthenticationError, AuthorizationError, MaxConnectionsError, UntrustedError)
# Said of a command within a script.
_FORBIDDEN: Final = "ACL failure in script"


def passes(error: Exception) -> bool:
    """Whether the same command may succeed once a failover, a restart or a move of its slot is over."""
    # redis-py wraps what kept it from reading the topology, and so do we.
    reason: BaseException | None = error
    while reason:
        if isinstance(reason, _HOPELESS):
            return False
        reason = reason.__cause__
    if isinstance(error, ResponseError) and str(error).startswith(_ROLE_CHANGES):
        return True
    return isinstance(error, (*_AWAY, RedisClusterException))


def node_failed(error: Exception) -> bool:
    """Whether the node that was asked is to be asked last from now on."""
    return isinstance(error, ValkeyConnectionError | ValkeyTimeoutError | ClusterDownError | ReadOnlyError)


def expected(error: Exception) -> IsthmusError | None:
    """The error that callers are told, with RetryInfo; None for what no failover, and no full memory, explains."""
    if isinstance(error, OutOfMemoryError):
        return full(error)
    if isinstance(error, ResponseError) and (isinstance(error, NoPermissionError) or _FORBIDDEN in str(error)):
        message = f"valkey.url: its user may not do what is needed: {error}; expected the rights of docs/operations.md"
        return UpstreamUnavailable(message)
    if passes(error) or isinstance(error, ValkeyConnectionError):
        return UpstreamUnavailable(f"Valkey cannot be reached: {error}")
    return None


def full(error: Exception) -> IsthmusError:
    """Valkey refuses writes for want of memory."""
    message = (
        f"Valkey is full, at its bound of memory: {error}; expected room for this write: "
        "raise its maxmemory, or wait for idle sessions to leave it"
    )
    return IsthmusError(errors_pb2.ERROR_REASON_OVERLOADED, message)


class Patience:
    """The waits of one command: exponential with full jitter, ending `failover_wait_ms_max` after its first failure."""

    def __init__(
        self, settings: ValkeySettings, clock: Callable[[], float], jitter: Callable[[], float] = random
    ) -> None:
        self._wait_s_max = settings.failover_wait_ms_max / 1000
        self._pause_s = settings.retry_backoff_ms_min / 1000
        self._pause_s_max = settings.retry_backoff_ms_max / 1000
        self._clock = clock
        self._jitter = jitter
        self._until: float | None = None

    def pause_s(self) -> float | None:
        """Seconds to wait before the next attempt; None once the wait is over."""
        now = self._clock()
        if self._until is None:
            self._until = now + self._wait_s_max
        if now >= self._until:
            return None
        pause_s = min(self._pause_s, self._pause_s_max)
        self._pause_s = 2 * pause_s
        return min(pause_s * self._jitter(), self._until - now)
