"""The hot sessions of a shard: a cache bounded by bytes, with one lock a session."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from context_store.hot_session import HotSession
from context_store.keys import Keys
from context_store.loading import Loader
from context_store.log import Log


@dataclass(slots=True)
class Slot:
    """The place of one session in the cache. Whoever is within `Sessions.hold` has it alone."""

    keys: Keys
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    hot: HotSession | None = None
    users: int = 0
    memory_bytes: int = 0
    # Set and renewed whenever a turn of the session is closed in this process.
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell_closed(self) -> None:
        self.closed.set()
        self.closed = asyncio.Event()


class Sessions:
    """Copies of sessions by tenant and id, least recently used out first once they pass `bytes_max`."""

    def __init__(self, log: Log, loader: Loader, bytes_max: int) -> None:
        self._log = log
        self._loader = loader
        self._bytes_max = bytes_max
        self._slots: OrderedDict[Keys, Slot] = OrderedDict()
        self.memory_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    @asynccontextmanager
    async def hold(self, keys: Keys) -> AsyncIterator[Slot]:
        """Holds a session alone within this process, loaded or not."""
        with self._use(keys) as slot:
            async with slot.lock:
                try:
                    yield slot
                finally:
                    self._weigh(slot)

    @contextmanager
    def watch(self, keys: Keys) -> Iterator[Slot]:
        """Keeps a session's place without holding it, for its `closed` event."""
        with self._use(keys) as slot:
            yield slot

    async def current(self, slot: Slot) -> HotSession:
        """The copy as it is here, loaded if need be: for writes, which find out by themselves whether it is new."""
        if slot.hot is None:
            slot.hot = await self._loader.load(slot.keys)
        return slot.hot

    async def refresh(self, slot: Slot) -> HotSession:
        """The copy brought up to what Valkey has. A failure on the way leaves no copy."""
        hot, slot.hot = slot.hot, None
        slot.hot = await (self._loader.refresh(hot) if hot else self._loader.load(slot.keys))
        return slot.hot

    async def fresh(self, slot: Slot) -> HotSession:
        """The copy, renewed only if Valkey has another state: for reads."""
        if slot.hot is None:
            return await self.current(slot)
        if await self._log.version(slot.keys) == slot.hot.version:
            return slot.hot
        return await self.refresh(slot)

    @contextmanager
    def _use(self, keys: Keys) -> Iterator[Slot]:
        slot = self._slots.setdefault(keys, Slot(keys))
        self._slots.move_to_end(keys)
        slot.users += 1
        try:
            yield slot
        finally:
            slot.users -= 1
            if slot.users == 0 and slot.hot is None:
                self._drop(slot)
            self._evict()

    def _weigh(self, slot: Slot) -> None:
        memory_bytes = slot.hot.memory_bytes if slot.hot else 0
        self.memory_bytes += memory_bytes - slot.memory_bytes
        slot.memory_bytes = memory_bytes

    def _evict(self) -> None:
        idle = (slot for slot in list(self._slots.values()) if slot.users == 0) if self._is_full() else iter(())
        for slot in idle:
            self._drop(slot)
            if not self._is_full():
                return

    def _is_full(self) -> bool:
        return self.memory_bytes > self._bytes_max

    def _drop(self, slot: Slot) -> None:
        self.memory_bytes -= slot.memory_bytes
        del self._slots[slot.keys]
