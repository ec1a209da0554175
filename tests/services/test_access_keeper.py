"""API keys in a real Valkey."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

import pytest
from isthmus.errors.v1 import errors_pb2
from redis.asyncio import Redis

from services.access import Change, KeyState, Scope, judge, revoked
from services.access.keeper import RECORDS_KEY, find, listed
from services.access.record import Verdict, encode
from services.access.scopes import DEFAULT
from services.config import Settings
from services.errors import InvalidField, IsthmusError, NotFound
from services.valkey import command
from tests.support.api_keys import HOUR_MS, keeping
from tests.support.mesh import changed


async def test_a_key_is_made_found_listed_and_revoked(settings: Settings, valkey: Redis) -> None:
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", [Scope.TURNS], display_name="ci", lifetime_ms=HOUR_MS)
        other = await keeper.create("other", DEFAULT)
        assert await find(valkey, made.key.id) == made.record
        assert [each.id for each in await listed(valkey)] == [made.key.id, other.key.id]

        first = await keeper.revoke(made.key.id)
        assert first.state(0) is KeyState.REVOKED
        assert await keeper.revoke(made.key.id) == first == await find(valkey, made.key.id)


async def test_no_secret_is_in_valkey(settings: Settings, valkey: Redis) -> None:
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", DEFAULT)
    stored = str(await command(valkey, "HGETALL", RECORDS_KEY))
    assert made.key.id in stored
    assert made.key.secret not in stored


async def test_a_rotation_leaves_the_old_key_its_time_of_grace(settings: Settings, valkey: Redis) -> None:
    async with keeping(settings) as keeper:
        old = await keeper.create("acme", DEFAULT)
        new = await keeper.rotate(old.key.id, HOUR_MS)
        record = await find(valkey, old.key.id)
        now_ms = int(time.time() * 1000)
        assert judge(record, old.key, now_ms) is Verdict.VALID
        assert judge(record, old.key, now_ms + 2 * HOUR_MS) is Verdict.EXPIRED
        assert judge(await find(valkey, new.key.id), new.key, now_ms) is Verdict.VALID
        await keeper.revoke(old.key.id)
        with pytest.raises(InvalidField, match="is revoked, expected an active one"):
            await keeper.rotate(old.key.id, 0)


async def test_what_is_not_there_is_named(settings: Settings) -> None:
    async with keeping(settings) as keeper:
        for work in (keeper.revoke("a" * 12), keeper.rotate("a" * 12, 0)):
            with pytest.raises(NotFound, match="API key aaaaaaaaaaaa does not exist"):
                await work


async def test_one_key_too_many_is_refused_and_what_is_there_can_still_end(settings: Settings, valkey: Redis) -> None:
    bounded = changed(settings, "gateway", access={"keys_count_max": 2})
    async with keeping(bounded) as keeper:
        made = [await keeper.create("acme", DEFAULT) for _ in range(2)]
        for work in (keeper.create("acme", DEFAULT), keeper.rotate(made[0].key.id, 0)):
            with pytest.raises(IsthmusError, match="there are 2 keys, which is the bound") as caught:
                await work
            assert caught.value.reason == errors_pb2.ERROR_REASON_QUOTA_EXCEEDED
        await keeper.revoke(made[0].key.id)
    assert [each.state(0) for each in await listed(valkey)].count(KeyState.REVOKED) == 1


async def test_what_has_ended_long_ago_makes_room(settings: Settings, valkey: Redis) -> None:
    bounded = changed(settings, "gateway", access={"keys_count_max": 1, "ended_kept_ms": HOUR_MS})
    async with keeping(bounded, lambda: time.time() - 2 * HOUR_MS / 1000) as keeper:
        old = await keeper.create("acme", DEFAULT)
        await keeper.revoke(old.key.id)
    async with keeping(bounded) as keeper:
        new = await keeper.create("acme", DEFAULT)
    assert [each.id for each in await listed(valkey)] == [new.key.id]


async def test_a_change_whose_answer_was_lost_is_found_done(settings: Settings, valkey: Redis) -> None:
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", DEFAULT)
        apply = cast("Any", keeper)._apply
        stored = {made.key.id: encode(made.record)}
        change = Change(made.record, revoked(made.record, 1))
        assert await apply([change], stored)
        assert await apply([change], stored)
        # Nothing that was planned on what was there before comes after it.
        assert not await apply([Change(made.record, None)], stored)
    record = await find(valkey, made.key.id)
    assert record is not None
    assert record.revoke_ms == 1


async def test_changes_at_the_same_moment_take_turns(settings: Settings, valkey: Redis) -> None:
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", DEFAULT)
        ended = await asyncio.gather(
            keeper.revoke(made.key.id), keeper.rotate(made.key.id, HOUR_MS), return_exceptions=True
        )
    assert not isinstance(ended[0], BaseException)
    record = await find(valkey, made.key.id)
    assert record is not None
    assert record.state(0) is KeyState.REVOKED


async def test_a_record_of_a_later_release_can_be_revoked(settings: Settings, valkey: Redis) -> None:
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", DEFAULT)
        later = {**json.loads(encode(made.record)), "colour": "red"}
        await command(valkey, "HSET", RECORDS_KEY, made.key.id, json.dumps(later))
        assert (await keeper.revoke(made.key.id)).state(0) is KeyState.REVOKED


async def test_a_record_that_cannot_be_read_opens_nothing_and_hinders_nobody(settings: Settings, valkey: Redis) -> None:
    await command(valkey, "HSET", RECORDS_KEY, "b" * 12, "rubbish")
    async with keeping(settings) as keeper:
        made = await keeper.create("acme", DEFAULT)
    assert await find(valkey, "b" * 12) is None
    assert [each.id for each in await listed(valkey)] == [made.key.id]


async def test_keys_are_kept_by_a_cluster_too(cluster_settings: Settings) -> None:
    async with keeping(cluster_settings) as keeper:
        old = await keeper.create("acme", DEFAULT)
        new = await keeper.rotate(old.key.id, HOUR_MS)
        assert (await keeper.revoke(new.key.id)).tenant == "acme"
