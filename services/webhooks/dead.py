"""Events that nobody took: the tenant's last ones, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from services.valkey import Acknowledger, Client, Script, command

_BURY: Final = Script(Path(__file__).parent / "scripts" / "bury.lua")


class DeadEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event, where it should have gone, and why it did not."""

    endpoint: str
    url: str
    event: str
    problem: str
    attempts: int
    end_ms: int
    body: str


async def bury(acknowledger: Acknowledger, tenant: str, event: DeadEvent, count_max: int) -> None:
    """Keeps the event among the tenant's last `count_max`. Raises what Acknowledger and redis raise."""
    await acknowledger.run(_BURY, [_key(tenant)], [msgspec.json.encode(event), count_max])


async def buried(valkey: Client, tenant: str, count: int) -> list[DeadEvent]:
    """The tenant's latest dead events, newest first. Raises redis' errors."""
    stored = await command(valkey, "LRANGE", _key(tenant), 0, count - 1)
    return [msgspec.json.decode(each, type=DeadEvent) for each in stored]


def _key(tenant: str) -> str:
    return f"isthmus:{{webhooks:{tenant}}}:dead"
