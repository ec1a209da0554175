"""Texts that a reply ends before, as clients write them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from msgspec import Meta

from services.errors import InvalidField

BYTES_MAX = 256
COUNT_MAX = 4
Stop: TypeAlias = str | Annotated[list[str], Meta(max_length=COUNT_MAX)] | None


def stops_of(stop: str | Sequence[str] | None) -> list[str]:
    """All of them; InvalidField by the path of one that is empty or too long."""
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    for index, each in enumerate(stops):
        if not 1 <= len(each.encode()) <= BYTES_MAX:
            path = "stop" if isinstance(stop, str) else f"stop[{index}]"
            raise InvalidField(path, f"is {len(each.encode())} bytes of UTF-8, expected 1 to {BYTES_MAX}")
    return stops
