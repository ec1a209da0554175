"""Endpoints in Valkey: read by gateways at each event, changed by whoever runs the mesh."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2
from msgspec import MsgspecError

from services.config import WebhookSettings
from services.errors import IsthmusError, NotFound
from services.valkey import Acknowledger, Client, Script, command
from services.webhooks.endpoint import Endpoint, created, decode, encode

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_ADD: Final = Script(_SCRIPTS / "add.lua")
_REMOVE: Final = Script(_SCRIPTS / "remove.lua")
_log: Final = structlog.get_logger("webhooks")


async def listed(valkey: Client, tenant: str) -> list[Endpoint]:
    """A tenant's endpoints by age. Raises redis' errors."""
    stored = await command(valkey, "HVALS", _key(tenant))
    read = [endpoint for each in stored if (endpoint := _read(each))]
    return sorted(read, key=lambda each: (each.create_ms, each.id))


async def find(valkey: Client, tenant: str, endpoint_id: str) -> Endpoint | None:
    """An endpoint of a tenant; None where there is none of this id. Raises redis' errors."""
    stored = await command(valkey, "HGET", _key(tenant), endpoint_id)
    return None if stored is None else _read(stored)


class Keeper:
    """Adds and removes endpoints. Raises InvalidField, NOT_FOUND, QUOTA_EXCEEDED, and what Acknowledger raises."""

    def __init__(
        self,
        acknowledger: Acknowledger,
        settings: WebhookSettings,
        *,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._acknowledger = acknowledger
        self._settings = settings
        self._clock = clock
        self._random_bytes = random_bytes

    async def add(self, tenant: str, url: str, events: Sequence[str]) -> Endpoint:
        """A new endpoint, whose secret is told this once."""
        now_ms = int(self._clock() * 1000)
        endpoint = created(tenant, url, events, now_ms=now_ms, random_bytes=self._random_bytes)
        count_max = self._settings.endpoints_count_max
        args = (endpoint.id, encode(endpoint), count_max)
        added, _ = await self._acknowledger.run(_ADD, [_key(tenant)], args)
        if not added:
            message = (
                f"tenant {tenant} has {count_max} endpoints, which is the bound (gateway.webhooks.endpoints_count_max)"
            )
            raise IsthmusError(errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, message)
        return endpoint

    async def remove(self, tenant: str, endpoint_id: str) -> None:
        """Nothing goes there any more, what waits for another attempt neither."""
        removed, _ = await self._acknowledger.run(_REMOVE, [_key(tenant)], [endpoint_id])
        if not removed:
            raise NotFound(f"endpoint {endpoint_id[:64]} of tenant {tenant}")


def _key(tenant: str) -> str:
    return f"isthmus:{{webhooks:{tenant}}}:endpoints"


def _read(stored: bytes) -> Endpoint | None:
    try:
        return decode(stored)
    except MsgspecError as error:
        _log.warning("an endpoint cannot be read", error=str(error))
        return None
