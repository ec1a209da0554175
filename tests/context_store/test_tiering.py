"""Idle sessions become objects and come back whole, whatever breaks in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from isthmus.errors.v1 import errors_pb2

from context_store.log.keys import Keys
from services.config import Settings
from services.errors import IsthmusError
from tests.context_store.tier_parts import Crash, Parts, Steps, parts
from tests.support.eventually import eventually
from tests.support.mesh import changed

KEYS = Keys("acme", "s1")
# Long enough for several pages and several fragments.
TEXT = "The isthmus is narrow, and what crosses it is little. " * 400


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Sessions are idle at once, and what broke off is cleaned up soon."""
    return changed(settings, "tiering", idle_ms=1, freeze_ms_max=300, page_bytes_max=4_096)


def objects(settings: Settings) -> list[Path]:
    return [path for path in (settings.mesh.home / "objects").rglob("*") if path.is_file()]


async def written(shard: Parts, keys: Keys, text: str = TEXT) -> None:
    await shard.create(keys)
    assert await shard.append(keys, text, "r1") == "APPENDED"


async def frozen(shard: Parts, keys: Keys = KEYS) -> None:
    """Freezes a session, which has to be idle for a millisecond first."""
    await eventually(lambda: _outcome(shard, keys, "FROZEN"))


async def _outcome(shard: Parts, keys: Keys, wanted: str) -> bool:
    return (await shard.freezer.freeze(keys, 1)).outcome == wanted


async def test_a_session_leaves_valkey_and_comes_back_with_its_next_use(quick: Settings, valkey: Any) -> None:
    async with parts(quick) as shard:
        await written(shard, KEYS)
        before = await shard.loader.load(KEYS)
        await frozen(shard)
        assert [key.decode() async for key in valkey.scan_iter("isthmus:{acme/*")] == [KEYS.meta]
        assert len(objects(quick)) == 1

        (shown,) = await shard.log.listed([KEYS])
        assert shown is not None
        assert (shown.text_bytes, shown.tokens) == (before.history.text_bytes, before.tokens())
        assert shown.revision == before.history.revision
        assert len(objects(quick)) == 1, "looking at a session brought it back"

        assert await shard.text(KEYS) == TEXT
        assert objects(quick) == []
        # What it knew is still effective.
        assert await shard.append(KEYS, TEXT, "r1") == "AGAIN"
        assert await shard.append(KEYS, "more", "r2") == "APPENDED"
        assert await shard.text(KEYS) == TEXT + "more"


async def test_what_is_written_while_it_freezes_is_kept(quick: Settings) -> None:
    """The turn wins: the freeze comes to nothing and its object goes."""
    async with parts(quick) as shard:
        await written(shard, KEYS)
        await asyncio.sleep(0.002)

        class Late(Steps):
            async def step(self, act: Callable[[], Awaitable[Any]]) -> Any:
                answer = await act()
                if objects(quick) and self.count == 0:
                    self.count = 1
                    assert await shard.append(KEYS, " And more.", "r2") == "APPENDED"
                return answer

        async with parts(quick, Late()) as freezing:
            assert (await freezing.freezer.freeze(KEYS, 1)).outcome == "STALE"
        assert await shard.text(KEYS) == TEXT + " And more."
    assert objects(quick) == []


async def test_one_that_is_used_stays(quick: Settings, valkey: Any) -> None:
    async with parts(changed(quick, "tiering", idle_ms=60_000)) as shard:
        await written(shard, KEYS)
        assert (await shard.freezer.freeze(KEYS, 60_000)).outcome == "RECENT"
        await valkey.hset(KEYS.meta, mapping={"open_turn": 1, "lease_until_ms": 1})
        assert (await shard.freezer.freeze(KEYS, 0)).outcome == "OPEN"
        await valkey.hset(KEYS.meta, "open_turn", 0)
        # Bringing it back is a use: it is not frozen again at once.
        await frozen(shard)
        await shard.text(KEYS)
        assert (await shard.freezer.freeze(KEYS, 60_000)).outcome == "RECENT"


async def test_many_callers_thaw_it_once_and_two_shards_not_twice(quick: Settings) -> None:
    async with parts(quick) as one, parts(quick) as other:
        await written(one, KEYS)
        await frozen(one)
        texts = await asyncio.gather(*(shard.text(KEYS) for shard in (one, other) * 8))
        assert set(texts) == {TEXT}
        # Again, page against page: whoever is second finds them there.
        await frozen(one)
        await asyncio.gather(one.tiers.thawer.thaw(KEYS), other.tiers.thawer.thaw(KEYS))
        assert await one.text(KEYS) == TEXT
    assert objects(quick) == []


@pytest.mark.leaves("an object that was broken on purpose")
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "another's"])
async def test_an_object_that_is_not_what_was_written_is_told_and_changes_nothing(
    quick: Settings, valkey: Any, harm: str
) -> None:
    async with parts(quick) as shard:
        await written(shard, KEYS)
        await frozen(shard)
        (path,) = objects(quick)
        whole = path.read_bytes()
        match harm:
            case "flipped":
                path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
            case "cut":
                path.write_bytes(whole[:-20])
            case "gone":
                path.unlink()
            case _:
                other = Keys("acme", "s2")
                await written(shard, other)
                await frozen(shard, other)
                path.write_bytes(next(one for one in objects(quick) if one != path).read_bytes())
        before = await valkey.hgetall(KEYS.meta)
        with pytest.raises(IsthmusError) as refused:
            await shard.text(KEYS)
        assert refused.value.reason == errors_pb2.ERROR_REASON_CORRUPT
        assert path.name in refused.value.message
        assert await valkey.hgetall(KEYS.meta) == before
        assert not await valkey.exists(*KEYS.leaving().values())
        # Restored from a backup, it is all there.
        path.write_bytes(whole)
        assert await shard.text(KEYS) == TEXT


async def test_thaws_beyond_the_bound_are_refused_with_when_to_come_back(quick: Settings) -> None:
    tight = changed(quick, "tiering", thaws_count_max=1, thaw_wait_ms_max=30)
    async with parts(tight) as shard:
        many = [Keys("acme", f"s{number}") for number in range(2)]
        for keys in many:
            await written(shard, keys)
            await frozen(shard, keys)
        # The first one's place is taken for as long as the test wants.
        reading, held = asyncio.Event(), asyncio.Event()
        get = shard.tiers.thawer._objects.get

        async def slow(name: str) -> Any:
            reading.set()
            await held.wait()
            async for piece in get(name):
                yield piece

        shard.tiers.thawer._objects.get = slow  # type: ignore[method-assign]
        first = asyncio.create_task(shard.text(many[0]))
        await reading.wait()
        with pytest.raises(IsthmusError) as refused:
            await shard.text(many[1])
        assert refused.value.reason == errors_pb2.ERROR_REASON_OVERLOADED
        assert refused.value.retry_after_ms
        held.set()
        assert await first == TEXT
        assert await shard.text(many[1]) == TEXT


async def crashed(settings: Settings, at: int, after: bool, act: Callable[[Parts], Awaitable[object]]) -> bool:
    """Whether the act took as many steps: then it crashed at this one."""
    async with parts(settings, Steps(at, after=after)) as shard:
        try:
            await act(shard)
        except Crash:
            return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_step_of_a_freeze_loses_nothing(quick: Settings, after: bool) -> None:
    async with parts(quick) as shard:

        async def freeze(broken: Parts) -> None:
            assert await _outcome(broken, KEYS, "FROZEN")

        await written(shard, KEYS)
        await frozen(shard)
        assert await shard.text(KEYS) == TEXT
        for at in count(1):
            await asyncio.sleep(0.002)
            if not await crashed(quick, at, after, freeze):
                break
            assert await shard.text(KEYS) == TEXT, f"lost by a crash at step {at}"
        assert at > 10
        await _cleaned(shard, quick)
        assert await shard.text(KEYS) == TEXT


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_step_of_a_thaw_loses_nothing(quick: Settings, after: bool) -> None:
    async with parts(quick) as shard:

        async def thaw(broken: Parts) -> None:
            await broken.tiers.thawer.thaw(KEYS)

        await written(shard, KEYS)
        for at in count(1):
            await frozen(shard)
            if not await crashed(quick, at, after, thaw):
                break
            assert await shard.text(KEYS) == TEXT, f"lost by a crash at step {at}"
        assert at > 10
        await _cleaned(shard, quick)
        assert await shard.text(KEYS) == TEXT


async def _cleaned(shard: Parts, settings: Settings) -> None:
    """The janitor leaves the session's one object, and looks for no other."""

    async def done() -> bool:
        await shard.janitor.round()
        due = [each async for each in shard.tiers.log._client.scan_iter("isthmus:due:*")]
        return not due and len(objects(settings)) == 1

    await eventually(done)


async def test_the_janitor_freezes_what_is_idle_and_only_what_it_owns(quick: Settings) -> None:
    async with parts(quick) as shard:
        many = [Keys("acme", f"s{number}") for number in range(20)]
        for keys in many:
            await written(shard, keys, "short")
        janitor = shard.janitor
        janitor._owns = lambda keys: keys in many[:15]
        await asyncio.sleep(0.002)
        await janitor.round()
        listed = await shard.log.listed(many)
        cold = [one.name for one in listed if one and one.tier == 2]
        assert sorted(cold) == sorted(f"sessions/{keys.session}" for keys in many[:15])
        assert await shard.text(many[0]) == "short"
