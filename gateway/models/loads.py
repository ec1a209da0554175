"""How much each replica has to do, as well as one of several gateways can know. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from services.membership import Member


class _Announced(NamedTuple):
    """What a heartbeat said, and how many of this gateway's own requests it may have had in it."""

    heartbeat_ms: int
    load: int
    own: int


class Loads:
    """Requests by replica: what its last heartbeat said, and what this gateway has begun and ended there since."""

    def __init__(self) -> None:
        self._own: Counter[str] = Counter()
        # The most of ours since the last heartbeat: the next one may be from when there were so many.
        self._peak: Counter[str] = Counter()
        self._announced: dict[str, _Announced] = {}

    def begin(self, member_id: str) -> None:
        """One more of ours."""
        self._own[member_id] += 1
        self._peak[member_id] = max(self._peak[member_id], self._own[member_id])

    def end(self, member_id: str) -> None:
        """One less of ours."""
        self._own[member_id] -= 1
        if self._own[member_id] <= 0:
            del self._own[member_id]

    def seen(self, members: Iterable[Member]) -> dict[str, int]:
        """The load of each of these, all that there are now. Ours count in any case, whatever was announced.

        A heartbeat that is read late has requests of ours in it that have ended. They are not taken for others': rather
        some of those are missed until the next one, as what is missed keeps sessions where they are.
        """
        before, self._announced = self._announced, {}
        loads: dict[str, int] = {}
        for member in members:
            own, known = self._own[member.id], before.get(member.id)
            if known is None or known.heartbeat_ms != member.heartbeat_ms:
                known = _Announced(member.heartbeat_ms, member.load, self._peak[member.id])
                self._peak[member.id] = own
            self._announced[member.id] = known
            loads[member.id] = own + max(0, known.load - known.own)
        self._peak = Counter({name: self._peak[name] for name in self._announced})
        return loads
