"""The indexes over all sessions that the janitor walks: by last use, and by when one is to be looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from context_store.log.keys import Keys, bucket_index, index
from services.valkey import Acknowledger, Client, Script, command

TOUCHED: Final = "touched"
DUE: Final = "due"

_SCRIPTS: Final = Path(__file__).parents[1] / "scripts"
_touch: Final = Script(_SCRIPTS / "touch.lua")
_note_due: Final = Script(_SCRIPTS / "note_due.lua")
_page: Final = Script(_SCRIPTS / "index_page.lua")
_settle: Final = Script(_SCRIPTS / "settle_member.lua")


@dataclass(frozen=True, slots=True)
class Place:
    """A member where an index had it: `score` in ms of its node's clock."""

    index: str
    member: str
    score: float


class Indexes:
    """Sorted sets in `buckets` slots. They are hints: what is done about a member, the session's own script decides.

    A hint that is due is acknowledged, as it alone may lead to what has to go. Others come again with the next use.
    """

    def __init__(self, client: Client, acknowledger: Acknowledger, buckets: int) -> None:
        self._client = client
        self._acknowledger = acknowledger
        self.buckets = buckets

    async def touch(self, many: Iterable[Keys]) -> None:
        """Notes that sessions were used just now."""
        members: dict[str, list[str]] = {}
        for keys in many:
            members.setdefault(index(TOUCHED, keys, self.buckets), []).append(keys.member)
        for name, some in members.items():
            await self._acknowledger.shared(_touch, [name], some)

    async def note_due(self, keys: Keys, member: str, delay_ms: int) -> Place:
        """Has the janitor look at a session, or an object of it, no later than in `delay_ms`. Raises NOT_REPLICATED."""
        name = index(DUE, keys, self.buckets)
        score, _ = await self._acknowledger.run(_note_due, [name], [member, delay_ms])
        return Place(name, member, float(score))

    async def oldest(self, concept: str, bucket: int, idle_ms: int, passed: int, count: int) -> list[Place]:
        """At most `count` members older than `idle_ms`, without the first `passed`."""
        name = bucket_index(concept, bucket)
        flat = await self._acknowledger.shared(_page, [name], [idle_ms, passed, count])
        return [Place(name, flat[i].decode(), float(flat[i + 1])) for i in range(0, len(flat), 2)]

    async def remove(self, place: Place) -> None:
        """Takes a member out, unless it was moved since it was read."""
        await self._acknowledger.shared(_settle, [place.index], [place.member, place.score, "", ""])

    async def forget(self, keys: Keys) -> None:
        """Takes a session out of the index by last use. What is due stays, until whoever noted it is done."""
        await command(self._client, "ZREM", index(TOUCHED, keys, self.buckets), keys.member)

    async def move(self, place: Place, score: float) -> None:
        """Gives a member another time, unless it was moved since it was read."""
        await self._acknowledger.shared(_settle, [place.index], [place.member, place.score, f"{score:.0f}", ""])

    async def postpone(self, place: Place, delay_ms: int) -> None:
        """Has a member looked at again in `delay_ms`, unless it was moved since it was read."""
        await self._acknowledger.shared(_settle, [place.index], [place.member, place.score, "", delay_ms])
