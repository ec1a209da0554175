"""Valkey's memory against its bound: when idle sessions have to go early, and when nothing new is taken in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from isthmus.errors.v1 import errors_pb2

from services.config import TieringSettings
from services.errors import IsthmusError
from services.valkey import Client, NodeMemory, memory

_RETRY_AFTER_MS: Final = 2_000
_log: Final = structlog.get_logger("context_store")


@dataclass(frozen=True, slots=True)
class Pressure:
    """The fullest primary. `is_high` lasts until `low` is reached again."""

    node: str = ""
    used_bytes: int = 0
    max_bytes: int = 0
    is_high: bool = False
    is_full: bool = False

    def next(self, nodes: Iterable[NodeMemory], settings: TieringSettings) -> Pressure:
        """What it is with these figures. Pure."""
        bounds = [(one, one.max_bytes or settings.valkey_bytes_max) for one in nodes]
        bounded = [(one.used_bytes / bound, one, bound) for one, bound in bounds if bound]
        if not bounded:
            return Pressure()
        share, node, bound = max(bounded, key=lambda each: each[0])
        mark = settings.valkey_low_ratio if self.is_high else settings.valkey_high_ratio
        is_full = share > settings.valkey_refuse_ratio
        return Pressure(node.name, node.used_bytes, bound, share > mark, is_full)


class MemoryWatch:
    """The pressure as it was looked at last."""

    def __init__(self, client: Client, settings: TieringSettings) -> None:
        self._client = client
        self._settings = settings
        self.pressure = Pressure()

    async def look(self) -> Pressure:
        """Asks every primary; told once a change."""
        before, self.pressure = self.pressure, self.pressure.next(await memory(self._client), self._settings)
        now = self.pressure
        if (before.is_high, before.is_full) != (now.is_high, now.is_full):
            tell = _log.warning if now.is_high else _log.info
            tell(
                "Valkey's memory",
                node=now.node,
                used_bytes=now.used_bytes,
                max_bytes=now.max_bytes,
                freezing_early=now.is_high,
                refusing=now.is_full,
            )
        return now

    def admit(self, what: str) -> None:
        """Raises OVERLOADED when nothing new is taken in. `what` is what the caller brings: `a new session`."""
        now = self.pressure
        if now.is_full:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_OVERLOADED,
                f"{what} is not taken in: Valkey ({now.node}) uses {now.used_bytes} of {now.max_bytes} bytes; expected"
                f" at most {self._settings.valkey_refuse_ratio:.0%} (tiering.valkey_refuse_ratio). Idle sessions make"
                " room soon: try again, or raise the bound",
                retry_after_ms=_RETRY_AFTER_MS,
            )
