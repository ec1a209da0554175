"""What a shard does by itself for the sessions that the ring gives it: freeze the idle, erase the expired, clean up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

import structlog
from redis.exceptions import RedisError

from context_store.log.keys import Keys
from context_store.log.stored import Reply
from context_store.tiering.freezing import Freezer
from context_store.tiering.indexes import DUE, TOUCHED, Place
from context_store.tiering.object_book import SPILLED, owner_of
from context_store.tiering.spill import Spill
from context_store.tiering.tiers import Tiers
from services.errors import IsthmusError
from services.long_task import LongTask

_log: Final = structlog.get_logger("context_store")

# Handles a member of an age: whether it is out of the way, gone from its index or moved on in it.
Handle: TypeAlias = Callable[[Place, int], Awaitable[bool]]


class Erasing(Protocol):
    """The way in which sessions are deleted."""

    async def expire(self, keys: Keys, touched_ms: int) -> bool:
        """Erases a session that was last written at `touched_ms`; False if it was written since."""
        ...

    async def resume(self, keys: Keys) -> int:
        """Cleans up after a deletion or a creation that broke off; in how many ms to look again, 0 for never."""
        ...

    async def relist(self, keys: Keys) -> None:
        """Puts a session that is there back into lists, should a deletion have broken off before it did so."""
        ...


class Janitor:
    """Walks the indexes, oldest first, in rounds. `owns` says what is this shard's; others do the rest.

    `expire_turn` closes an open turn whose lease has lapsed.
    """

    def __init__(
        self,
        tiers: Tiers,
        freezer: Freezer,
        erasing: Erasing,
        owns: Callable[[Keys], bool],
        expire_turn: Callable[[Keys, int], Awaitable[None]],
        spill: Spill,
    ) -> None:
        self._tiers = tiers
        self._settings = tiers.settings
        self._indexes = tiers.indexes
        self._memory = tiers.memory
        self._freezer = freezer
        self._erasing = erasing
        self._owns = owns
        self._expire_turn = expire_turn
        self._spill = spill
        self._places = asyncio.Semaphore(self._settings.janitor_concurrent_max)
        self._task = LongTask()

    def start(self) -> None:
        """Begins its rounds."""
        self._task.start(self._run(), "janitor")

    async def stop(self) -> None:
        """Breaks off where it is."""
        await self._task.stop()

    async def _run(self) -> None:
        while True:
            try:
                await self.round()
            except (RedisError, IsthmusError) as error:
                _log.warning("the janitor's round broke off", problem=str(error))
            await asyncio.sleep(self._settings.janitor_interval_ms / 1000)

    async def round(self) -> None:
        """Looks once at everything that is due."""
        await self._memory.look()
        for bucket in range(self._indexes.buckets):
            await self._walk(DUE, bucket, _at_once, self._look)
        for bucket in range(self._indexes.buckets):
            await self._walk(TOUCHED, bucket, self._idle_ms, self._freeze)

    async def _idle_ms(self) -> int | None:
        """How long a session must have been idle to be frozen now; None where none is."""
        if not self._settings.enabled:
            return None
        # A round may last for minutes, and what is taken in meanwhile goes by this.
        if (await self._memory.look()).is_high:
            return self._settings.idle_ms_min
        return self._settings.idle_ms or None

    async def _walk(
        self, concept: str, bucket: int, age_ms: Callable[[], Awaitable[int | None]], handle: Handle
    ) -> None:
        """Handles a bucket's share of a round: those of an age, asked anew for each page; None ends it."""
        left = max(1, self._settings.janitor_sessions_count_max // self._indexes.buckets)
        passed = 0
        while left > 0 and (idle_ms := await age_ms()) is not None:
            count = min(left, self._settings.janitor_page_count_max)
            places = await self._indexes.oldest(concept, bucket, idle_ms, passed, count)
            out = await asyncio.gather(*(self._handled(place, idle_ms, handle) for place in places))
            passed += len(places) - sum(out)
            left -= len(places)
            if len(places) < count:
                return

    async def _handled(self, place: Place, idle_ms: int, handle: Handle) -> bool:
        async with self._places:
            try:
                return await handle(place, idle_ms)
            except (RedisError, IsthmusError) as error:
                _log.warning("the janitor could not do its work", member=place.member, problem=str(error))
                return False

    async def _freeze(self, place: Place, idle_ms: int) -> bool:
        keys = _keys(place.member)
        if not self._owns(keys):
            return False
        reply = await self._freezer.freeze(keys, idle_ms)
        if reply.outcome == "RECENT":
            await self._indexes.move(place, float(reply.values[0]))
            return True
        if reply.outcome == "MISSING" and await self._erasing.resume(keys):
            return False
        if reply.outcome in ("FROZEN", "COLD", "MISSING"):
            await self._indexes.remove(place)
            return True
        if reply.outcome == "OPEN" and reply.values[1] <= 0:
            await self._expire_turn(keys, int(reply.values[0]))
        return False

    async def _look(self, place: Place, _: int) -> bool:
        owner = owner_of(place.member)
        keys = owner or _keys(place.member)
        if not self._owns(keys):
            return False
        if place.member.endswith(SPILLED):
            if not await self._spill.settle(keys, place):
                await self._tiers.book.postpone(place)
        elif owner:
            await self._tiers.book.judge(keys, place)
        else:
            await self._expire(keys, place, await self._tiers.log.expiry(keys))
        return True

    async def _expire(self, keys: Keys, place: Place, reply: Reply) -> None:
        if reply.outcome == "EXPIRED":
            # One that was written just now is looked at again in the next round.
            if not await self._erasing.expire(keys, int(reply.values[0])):
                return
            _log.info("a session has expired", tenant=keys.tenant, session=keys.session)
        delay_ms = 0
        if reply.outcome == "ALIVE":
            await self._erasing.relist(keys)
            delay_ms = int(reply.values[0])
        if reply.outcome == "MISSING":
            delay_ms = await self._erasing.resume(keys)
        await (self._indexes.postpone(place, delay_ms) if delay_ms else self._indexes.remove(place))


async def _at_once() -> int:
    return 0


def _keys(member: str) -> Keys:
    tenant, _, session = member.partition("/")
    return Keys(tenant, session)
