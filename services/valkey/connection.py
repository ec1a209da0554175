"""One connection to one node of Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as ValkeyTimeoutError

from services.valkey.refusals import told
from services.valkey.tls import Tls


class _Ours(AbstractConnection):
    """Sends within the connection's deadline, without asyncio.wait_for, and names the setting of what is refused.

    redis-py's own way makes a task of every command, and before Python 3.12 loses a cancellation that comes just as
    the command has gone out (python/cpython#86296): a task that should end would then go on.
    """

    _tls = False

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        bound_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(bound_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise ValkeyTimeoutError(f"not sent within {bound_s} s") from None
        finally:
            self.socket_timeout = bound_s

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        except RedisError as error:
            explained = told(error, self._host_error(), tls=self._tls)
            if explained is error:
                raise
            raise explained from error


class Plain(_Ours, Connection):
    """Over TCP."""


class Encrypted(_Ours, SSLConnection):
    """Over TLS, for `rediss://` and `rediss+cluster://`. All connections of a client share its `tls`."""

    _tls = True

    def __init__(self, *, tls: Tls, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # In place of redis-py's, which reads the system's authorities anew for each connection.
        self.ssl_context = tls  # type: ignore[assignment]
