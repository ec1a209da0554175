"""Audits as they are kept: once for a turn, by tenant and day, in order, and not for ever."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.audits.keeper import AuditKeeper, Kept
from services.audits.record import AuditRecord, ClaimRecord, decode, encode, is_sampled
from services.config import AuditSettings

DAY_MS = 86_400_000
NOW_MS = 1_795_305_600_000
SUPPORTED, CONTRADICTED, UNSUPPORTED = (ClaimRecord(number, 0, 9, 0.5, (1, 2)) for number in (1, 2, 3))


def audit(turn: int, *claims: ClaimRecord, session: str = "s1", model: str = "m", age_ms: int = 0) -> AuditRecord:
    """The verdict on a turn that ended so long before now."""
    return AuditRecord(
        session=session,
        turn=turn,
        model=model,
        end_ms=NOW_MS - age_ms,
        audit_ms=NOW_MS,
        method="lexical",
        claims=claims,
    )


@pytest.fixture
def keeper(valkey: Redis) -> AuditKeeper:
    """At a fixed time."""
    return AuditKeeper(valkey, AuditSettings(day_count_max=3), lambda: NOW_MS / 1000)


async def test_a_turn_has_one_audit_however_often_it_is_judged(keeper: AuditKeeper) -> None:
    one = audit(1, SUPPORTED, UNSUPPORTED)
    assert not await keeper.has("acme", one)
    kept = await asyncio.gather(*(keeper.keep("acme", one) for _ in range(5)))
    assert sorted(kept) == [Kept.ALREADY] * 4 + [Kept.NEW]
    assert await keeper.has("acme", one)
    rates = await keeper.rates("acme", date.min, date.max)
    assert rates == {(one.day, "m"): {"audits": 1, "supported": 1, "contradicted": 0, "unsupported": 1}}


async def test_tenants_and_models_and_days_are_apart(keeper: AuditKeeper) -> None:
    await keeper.keep("acme", audit(1, SUPPORTED))
    await keeper.keep("acme", audit(2, CONTRADICTED, model="a:b"))
    await keeper.keep("acme", audit(3, UNSUPPORTED, age_ms=DAY_MS))
    await keeper.keep("other", audit(1, UNSUPPORTED))
    found = await keeper.rates("acme", date.min, date.max)
    today, yesterday = audit(1).day, audit(1, age_ms=DAY_MS).day
    assert list(found) == [(yesterday, "m"), (today, "a:b"), (today, "m")]
    assert found[today, "a:b"]["contradicted"] == 1
    assert list(await keeper.rates("acme", date.fromisoformat(today), date.max)) == [(today, "a:b"), (today, "m")]
    assert [record.turn for _, record in await keeper.page("acme", "", 10)] == [2, 1, 3]
    assert len(await keeper.page("other", "", 10)) == 1
    assert await keeper.page("nobody", "", 10) == []


async def test_pages_go_on_where_the_one_before_ended(keeper: AuditKeeper, valkey: Redis) -> None:
    for turn in range(1, 7):
        await keeper.keep("acme", audit(turn, age_ms=turn * DAY_MS // 2))
    seen: list[int] = []
    before = ""
    while page := await keeper.page("acme", before, 2):
        seen += [record.turn for _, record in page]
        before = page[-1][0]
    assert seen == [1, 2, 3, 4, 5, 6]
    ttls = [await valkey.pttl(key) for key in await valkey.keys("isthmus:audit:*")]
    assert ttls
    assert all(0 < ttl <= AuditSettings().kept_ms for ttl in ttls)


async def test_a_day_that_is_full_takes_no_more_and_counts_none(keeper: AuditKeeper) -> None:
    kept = [await keeper.keep("acme", audit(turn, SUPPORTED)) for turn in range(1, 6)]
    assert kept == [Kept.NEW] * 3 + [Kept.DAY_FULL] * 2
    assert (await keeper.rates("acme", date.min, date.max))[audit(1).day, "m"]["audits"] == 3


async def test_another_session_of_the_same_id_is_another_one(keeper: AuditKeeper) -> None:
    assert await keeper.keep("acme", audit(1)) is Kept.NEW
    assert await keeper.keep("acme", audit(1, age_ms=5)) is Kept.NEW


@given(st.text(max_size=20), st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_all_turns_of_a_smaller_one(tenant: str, turn: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_sampled(tenant, turn, large) or not is_sampled(tenant, turn, small)
    assert not is_sampled(tenant, turn, 0)
    assert is_sampled(tenant, turn, 1)


def test_the_share_is_about_what_it_says() -> None:
    found = sum(is_sampled("acme", f"sessions/s{number}/turns/1", 0.25) for number in range(4_000))
    assert 800 < found < 1_200


def test_what_another_release_wrote_is_as_good_as_not_there() -> None:
    record = audit(1, SUPPORTED, CONTRADICTED)
    assert decode(encode(record)) == record
    assert decode(b"\xc1") is None
