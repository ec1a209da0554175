"""The parts of a shard without its door, on a real Valkey and a real folder, each step of which a test may break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from isthmus.session.v1 import fragment_pb2, message_pb2, session_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.loading import Loader
from context_store.log.bodies import Bodies
from context_store.log.fragments import Origin, drafts
from context_store.log.keys import Keys
from context_store.log.log import Log
from context_store.store import entries, now
from context_store.tiering.freezing import Freezer
from context_store.tiering.janitor import Janitor
from context_store.tiering.objects import Bucket, bucket
from context_store.tiering.spill import Spill, filled
from context_store.tiering.tiers import Tiers
from services.config import Settings
from services.valkey import Acknowledger, connect


class Crash(BaseException):
    """The process ends here: nothing catches it."""


class Steps:
    """Counts what reaches Valkey or the bucket, and crashes at one of them: before it has its effect, or after."""

    def __init__(self, crash_at: int | None = None, *, after: bool = False) -> None:
        self.count = 0
        self._crash_at = crash_at
        self._after = after

    async def step(self, act: Callable[[], Awaitable[Any]]) -> Any:
        self.count += 1
        is_last = self.count == self._crash_at
        if is_last and not self._after:
            raise Crash
        answer = await act()
        if is_last:
            raise Crash
        return answer


class BrittleBucket:
    """A bucket each call of which is a step."""

    def __init__(self, inner: Bucket, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps

    async def put(self, name: str, parts: AsyncIterator[bytes]) -> None:
        await self._steps.step(lambda: self._inner.put(name, parts))

    async def get(self, name: str) -> AsyncIterator[bytes]:
        async def whole() -> list[bytes]:
            return [piece async for piece in self._inner.get(name)]

        for piece in await self._steps.step(whole):
            yield piece

    async def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        return list(await self._steps.step(lambda: self._inner.ranges(name, spans)))

    async def delete(self, name: str) -> int:
        return int(await self._steps.step(lambda: self._inner.delete(name)))


class NoErasing:
    """For tests in which nothing expires."""

    async def expire(self, keys: Keys, touched_ms: int) -> bool:
        raise AssertionError(f"{keys} expires")

    async def resume(self, keys: Keys) -> int:
        return 0

    async def relist(self, keys: Keys) -> None:
        """They are in their lists."""


class Parts:
    """One shard's log, tiers and freezer."""

    def __init__(self, client: Any, settings: Settings, steps: Steps) -> None:
        self.settings = settings
        self.bucket = bucket(settings)
        acknowledger = Acknowledger(client, settings.valkey)
        self.tiers = Tiers(client, acknowledger, BrittleBucket(self.bucket, steps), settings.tiering)
        self.log = Log(client, acknowledger, self.tiers.thawer.thaw, partial(filled, self.tiers.objects))
        self.loader = Loader(self.log, settings.store)
        self.freezer: Freezer = self.tiers.freezer(self.loader.load)
        self.bodies = Bodies(self.log, 0)
        self.spill = Spill(self.log, self.tiers.book, self.tiers.objects, settings.tiering)

    @property
    def janitor(self) -> Janitor:
        """One that owns all."""
        return Janitor(self.tiers, self.freezer, NoErasing(), lambda _: True, self._expire_turn, self.spill)

    async def _expire_turn(self, keys: Keys, number: int) -> None:
        raise AssertionError(f"turn {number} of {keys} is open")

    async def create(self, keys: Keys, **fields: Any) -> None:
        """An empty session."""
        own = session_pb2.Session(name=f"sessions/{keys.session}", etag="e", **fields)
        own.create_time.CopyFrom(now())
        await self.log.enter_tenant(keys, 0)
        await self.tiers.enter(keys, own)
        await self.log.create_session(keys, own, b"incarnat")

    async def append(self, keys: Keys, text: str, request_id: str) -> str:
        """Appends a message outside a turn; what became of it."""
        origin = Origin(fragment_pb2.FRAGMENT_KIND_MESSAGE, message_pb2.ROLE_USER)
        parts = drafts(text, origin, self.settings.store.fragment_bytes_max)
        reply = await self.log.append_messages(keys, request_id, b"d" * 16, entries(parts, now()))
        return reply.outcome

    async def text(self, keys: Keys) -> str:
        """All that the session's log says, read as a window would."""
        hot: HotSession = await self.loader.load(keys)
        found = await self.bodies.get(keys, hot.incarnation, list(range(1, hot.history.revision + 1)))
        return "".join(one.text for one in found)


@asynccontextmanager
async def parts(settings: Settings, steps: Steps | None = None) -> AsyncIterator[Parts]:
    """A shard whose every step may crash it."""
    steps = steps or Steps()
    client: Any = connect(settings.valkey)
    execute = client.execute_command

    async def stepping(*args: Any, **options: Any) -> Any:
        return await steps.step(lambda: execute(*args, **options))

    client.execute_command = stepping
    shard = Parts(client, settings, steps)
    try:
        yield shard
    finally:
        await shard.tiers.thawer.stop()
        await client.aclose()
