"""What a gateway remembers of API keys: for a short time, and no more than its bound. Pure; times are passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from services.access import Record


@dataclass(frozen=True, slots=True)
class Known:
    """What Valkey said of an id: its record, or None where it has none."""

    record: Record | None
    asked_ms: int


class KeyCache:
    """Records by id, and ids that are no key's, each at most `count_max`; the one not asked for the longest goes first.

    Apart, so that who invents ids drives out no key that is in use.
    """

    def __init__(self, ms_max: int, count_max: int) -> None:
        self._ms_max = ms_max
        self._count_max = count_max
        self._keys: OrderedDict[str, Known] = OrderedDict()
        self._strangers: OrderedDict[str, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys) + len(self._strangers)

    def get(self, key_id: str, now_ms: int) -> Known | None:
        """What is remembered of an id and is young enough to go by."""
        for kept in (self._keys, self._strangers):
            known = kept.get(key_id)
            if known is not None and now_ms - known.asked_ms < self._ms_max:
                kept.move_to_end(key_id)
                return known
        return None

    def put(self, key_id: str, record: Record | None, asked_ms: int) -> None:
        """Remembers an answer of Valkey. Its age counts from when it was asked for: it may be as old as that.

        One that was asked for earlier than what is remembered, and came late, is dropped: a key that was refused once
        would be let in again.
        """
        known = self._keys.get(key_id) or self._strangers.get(key_id)
        if known is not None and known.asked_ms > asked_ms:
            return
        self._keys.pop(key_id, None)
        self._strangers.pop(key_id, None)
        kept = self._strangers if record is None else self._keys
        kept[key_id] = Known(record, asked_ms)
        while len(kept) > self._count_max:
            kept.popitem(last=False)
