"""Events that nobody took: the tenant's last ones, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from services.valkey import Acknowledger, Script

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
    await acknowledger.run(_BURY, [dead_key(tenant)], [msgspec.json.encode(event), count_max])


def dead_key(tenant: str) -> str:
    """The list of a tenant's dead events, newest first."""
    return f"isthmus:{{webhooks:{tenant}}}:dead"
