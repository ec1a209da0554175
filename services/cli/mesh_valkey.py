"""The Valkey of a mesh, for the commands that change what is kept there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from redis.exceptions import RedisError

from services.config import Settings
from services.errors import UpstreamUnavailable
from services.valkey import Acknowledger, Client, connect, redacted
from services.valkey.failover import expected


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Client, Acknowledger]]:
    """A client, and what confirms its writes. What Valkey raises inside becomes an IsthmusError."""
    async with contextlib.AsyncExitStack() as closing:
        valkey = connect(settings.valkey)
        closing.push_async_callback(valkey.aclose)
        acknowledger = Acknowledger(valkey, settings.valkey)
        closing.push_async_callback(acknowledger.aclose)
        try:
            yield valkey, acknowledger
        except RedisError as error:
            where = redacted(settings.valkey.url)
            raise expected(error) or UpstreamUnavailable(f"the Valkey at {where} refuses: {error}") from error
