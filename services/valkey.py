"""The connection to Valkey, and Lua scripts as callables. A cluster will be behind the same `connect`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as ValkeyTimeoutError

from services.config import ValkeySettings

Argument: TypeAlias = bytes | str | int | float


def connect(settings: ValkeySettings) -> Redis:
    """A client with a bounded pool, deadlines, and retries on connection errors alone. Connects when first used.

    Answers are bytes. A command whose connection breaks is sent again, so it may run twice: each one that writes has
    to be a script that bears it. Raises redis.exceptions.ConnectionError or TimeoutError when Valkey stays away. The
    caller closes it with `aclose()`.
    """
    backoff = FullJitterBackoff(cap=settings.retry_backoff_ms_max / 1000, base=settings.retry_backoff_ms_min / 1000)
    pool = BlockingConnectionPool.from_url(
        settings.url,
        max_connections=settings.connections_count_max,
        timeout=settings.pool_wait_ms_max / 1000,
        socket_connect_timeout=settings.connect_ms_max / 1000,
        socket_timeout=settings.command_ms_max / 1000,
        retry=Retry(backoff, settings.retries_count_max, supported_errors=(ValkeyConnectionError,)),
        decode_responses=False,
    )
    pool.connection_class = _Encrypted if issubclass(pool.connection_class, SSLConnection) else _Plain
    return Redis.from_pool(pool)


class _Sending(AbstractConnection):
    """Sends within the connection's deadline, without asyncio.wait_for.

    redis-py's own way makes a task of every command, and before Python 3.12 loses a cancellation that comes just as
    the command has gone out (python/cpython#86296): a task that should end would then go on.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        bound_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(bound_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise ValkeyTimeoutError(f"not sent within {bound_s} s") from None
        finally:
            self.socket_timeout = bound_s


class _Plain(_Sending, Connection):
    """Over TCP."""


class _Encrypted(_Sending, SSLConnection):
    """Over TLS, for `rediss://`."""


class Script:
    """A Lua script in a file of its own, run atomically by its digest; sent in full once after a restart of Valkey."""

    def __init__(self, path: Path) -> None:
        self._source = path.read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Redis, keys: Sequence[Argument], args: Sequence[Argument] = ()) -> Any:
        """Runs the script; what it returns has Lua's types as RESP gives them (bytes, int, list, None)."""
        try:
            return await client.evalsha(self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self._source, len(keys), *keys, *args)
