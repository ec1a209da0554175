"""The hot sessions of a shard: a cache bounded by bytes, with one lock a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from context_store.hot.admission import Admission
from context_store.hot.hot_session import HotSession
from context_store.hot.loading import Loader
from context_store.log.keys import Keys
from context_store.log.log import Log
from context_store.log.stored import descends


@dataclass(slots=True)
class Slot:
    """The place of one session in the cache. Whoever is within `Sessions.hold` has it alone."""

    keys: Keys
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    hot: HotSession | None = None
    users: int = 0
    # Set and renewed whenever a turn of the session is closed in this process.
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    # The same, and whenever its output has grown.
    output: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def open_turn(self) -> int:
        """The number of the turn that is open in the copy; 0 if none is, or there is no copy."""
        return self.hot.open.number if self.hot and self.hot.open else 0

    def tell_closed(self) -> None:
        self.closed.set()
        self.closed = asyncio.Event()
        self.tell_output()

    def tell_output(self) -> None:
        self.output.set()
        self.output = asyncio.Event()


class Sessions:
    """Copies of sessions by tenant and id, in `bytes_max` of memory.

    `newcomer_share` of it is left to sessions that were not used again yet: a scan over many sessions goes through
    that part alone. `on_void` is told of a session of which another shard has taken something out of use, or which may
    have lost something with a primary. Counts are for metrics: copies loaded whole, copies let go of to make room.
    """

    def __init__(
        self,
        log: Log,
        loader: Loader,
        bytes_max: int,
        newcomer_share: float = 0.2,
        on_void: Callable[[Keys], object] = lambda _: None,
    ) -> None:
        self._log = log
        self._on_void = on_void
        self._loader = loader
        self._admission = Admission[Keys](bytes_max, newcomer_share)
        self._slots: dict[Keys, Slot] = {}
        self.load_count = 0
        self.eviction_count = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def memory_bytes(self) -> int:
        """About what the copies take in memory."""
        return self._admission.bytes

    @property
    def protected_bytes(self) -> int:
        """Of these, what sessions take that were used again."""
        return self._admission.protected_bytes

    @asynccontextmanager
    async def hold(self, keys: Keys) -> AsyncIterator[Slot]:
        """Holds a session alone within this process, loaded or not."""
        with self._use(keys) as slot:
            async with slot.lock:
                # Calls of one turn are one use of the session.
                again = slot.hot is not None and not slot.open_turn
                try:
                    yield slot
                finally:
                    self._weigh(slot, again)

    @contextmanager
    def watch(self, keys: Keys) -> Iterator[Slot]:
        """Keeps a session's place without holding it, for its events."""
        with self._use(keys) as slot:
            yield slot

    def tell_output(self, keys: Keys) -> None:
        """Wakes those who wait for the output of the session's turn in this process."""
        slot = self._slots.get(keys)
        if slot is not None:
            slot.tell_output()

    async def current(self, slot: Slot) -> HotSession:
        """The copy as it is here, loaded if need be: for writes, which find out by themselves whether it is new."""
        if slot.hot is None:
            slot.hot = await self._load(slot)
        return slot.hot

    async def refresh(self, slot: Slot) -> HotSession:
        """The copy brought up to what Valkey has. A failure on the way leaves no copy."""
        hot, slot.hot = slot.hot, None
        slot.hot = await (self._loader.refresh(hot) if hot else self._load(slot))
        if hot and (hot.void_at != slot.hot.void_at or not descends(slot.hot.version, hot.version)):
            self._on_void(slot.keys)
        return slot.hot

    async def fresh(self, slot: Slot) -> HotSession:
        """The copy, renewed only if Valkey has another state: for reads."""
        if slot.hot is None:
            return await self.current(slot)
        if await self._log.version(slot.keys) == slot.hot.version:
            return slot.hot
        return await self.refresh(slot)

    def held(self) -> list[Keys]:
        """The sessions that have a place now."""
        return list(self._slots)

    def open_turn(self, keys: Keys) -> int:
        """The number of the turn that is open in the session's copy; 0 if none is, or there is no copy."""
        slot = self._slots.get(keys)
        return slot.open_turn if slot else 0

    def let_go(self, keys: Keys) -> bool:
        """Drops the session's copy; False if somebody uses it now."""
        slot = self._slots.get(keys)
        if slot is None:
            return True
        if slot.users:
            return False
        self._drop(slot)
        return True

    async def _load(self, slot: Slot) -> HotSession:
        self.load_count += 1
        return await self._loader.load(slot.keys)

    @contextmanager
    def _use(self, keys: Keys) -> Iterator[Slot]:
        slot = self._slots.setdefault(keys, Slot(keys))
        slot.users += 1
        try:
            yield slot
        finally:
            slot.users -= 1
            if slot.users == 0 and slot.hot is None:
                self._drop(slot)
            self._evict()

    def _weigh(self, slot: Slot, again: bool) -> None:
        if slot.hot is None:
            self._admission.forget(slot.keys)
        else:
            self._admission.keep(slot.keys, slot.hot.memory_bytes, again=again)

    def _evict(self) -> None:
        while (keys := self._admission.excess(self._is_idle)) is not None:
            self._drop(self._slots[keys])
            self.eviction_count += 1

    def _is_idle(self, keys: Keys) -> bool:
        return self._slots[keys].users == 0

    def _drop(self, slot: Slot) -> None:
        self._admission.forget(slot.keys)
        del self._slots[slot.keys]
