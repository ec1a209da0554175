"""One connection to one node of Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import TimeoutError as ValkeyTimeoutError


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


class Plain(_Sending, Connection):
    """Over TCP."""


class Encrypted(_Sending, SSLConnection):
    """Over TLS, for `rediss://` and `rediss+cluster://`."""
