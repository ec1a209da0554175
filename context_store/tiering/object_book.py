"""Which objects sessions own. One is noted before it is written and forgotten once it is gone, so none is lost.

A name carries the time at which its object was begun, by Valkey's clock. What is begun comes to something within
`freeze_ms_max`, or to nothing: the scripts refuse what is later. Twice that after its beginning, an object that its
session does not name is nobody's.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

import structlog

from context_store.log.keys import Keys
from context_store.tiering.cold_log import ColdLog
from context_store.tiering.indexes import Indexes, Place
from context_store.tiering.objects import Objects
from services.config import TieringSettings

FOLDER: Final = "sessions/"
SPILLED: Final = ".bodies"
_NAME: Final = re.compile(r"sessions/(?P<tenant>[^/]+)/(?P<session>[^/]+)/[0-9a-f]+-t?[0-9]+-[0-9a-f]+\.(zst|bodies)")
_log: Final = structlog.get_logger("context_store")


def object_name(keys: Keys, incarnation: bytes, now_ms: int) -> str:
    """A name that was never used and never will be again."""
    return f"{FOLDER}{keys.member}/{incarnation.hex()}-{now_ms}-{secrets.token_hex(6)}.zst"


def spill_name(keys: Keys, incarnation: bytes, turn: int) -> str:
    """The same for the texts of a turn's reply."""
    return f"{FOLDER}{keys.member}/{incarnation.hex()}-t{turn}-{secrets.token_hex(6)}{SPILLED}"


def owner_of(name: str) -> Keys | None:
    """The session whose object has this name; None for what is no object's name."""
    match = _NAME.fullmatch(name)
    return Keys(match["tenant"], match["session"]) if match else None


class ObjectBook:
    """Notes objects in their session's set, and in the index of what the janitor looks at."""

    def __init__(self, log: ColdLog, indexes: Indexes, objects: Objects, settings: TieringSettings) -> None:
        self._log = log
        self._indexes = indexes
        self._objects = objects
        self._judged_ms = 2 * settings.freeze_ms_max

    async def note(self, keys: Keys, version: bytes, name: str) -> Place | None:
        """Notes an object that is about to be written; None when the session has changed meanwhile."""
        place = await self.note_due(keys, name)
        if await self._log.note_object(keys, version, name):
            return place
        await self._indexes.remove(place)
        return None

    async def note_due(self, keys: Keys, name: str) -> Place:
        """Has the janitor look at an object that its session is about to let go."""
        return await self._indexes.note_due(keys, name, self._judged_ms)

    async def keep(self, place: Place) -> None:
        """The session names the object now: nobody needs to look at it."""
        await self._indexes.remove(place)

    async def discard(self, keys: Keys, place: Place) -> None:
        """Deletes an object that is known to be nobody's. What fails is tried again by the janitor."""
        await self._objects.delete(place.member)
        await self._log.forget_object(keys, place.member)
        await self._indexes.remove(place)

    async def postpone(self, place: Place) -> None:
        """Has the janitor look again."""
        await self._indexes.postpone(place, self._judged_ms)

    async def judge(self, keys: Keys, place: Place) -> None:
        """Deletes a session's object if it is nobody's, or notes when to look again."""
        reply = await self._log.judge_object(keys, place.member, self._judged_ms)
        if reply.outcome == "DEAD":
            await self.discard(keys, place)
            _log.info("deleted an object that no session names", object=place.member)
        elif reply.outcome == "YOUNG":
            await self._indexes.postpone(place, int(reply.values[0]))
        else:
            await self.keep(place)
