"""Entries in Valkey: bounded, the same for every gateway, gone when they are told wrong or their session is erased."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.caches.entry import Entry
from gateway.caches.index import Index, unit
from gateway.caches.keeper import Keeper, Place
from services.config import CacheSettings, Settings
from services.valkey import Client, command, connect, scan_keys


@pytest_asyncio.fixture
async def valkey(settings: Settings) -> AsyncIterator[Client]:
    """A connection of its own."""
    client = connect(settings.valkey)
    yield client
    await client.aclose()


def entry(number: int) -> Entry:
    """An entry with a vector."""
    return Entry(f"id{number}", f"sessions/s{number}/turns/1", 0, f"Question {number}?", "e", unit([1, number, 0]))


def place(number: int, tenant: str = "acme", scope: str = "scope") -> Place:
    """Where it is."""
    return Place(tenant, scope, f"id{number}")


def keeper(valkey: Client, at_ms: int = 0, **settings: int) -> Keeper:
    """A keeper whose clock stands."""
    return Keeper(valkey, CacheSettings.model_validate(settings), clock=lambda: at_ms / 1000)


async def ids(kept: Keeper, index: Index, tenant: str = "acme") -> set[str]:
    """What an index finds once it is brought up."""
    await kept.bring_up(index, tenant, "scope")
    return {each.id for each, _ in index.near(unit([1, 1, 0]), "e", 100, -1)}


async def test_what_one_gateway_keeps_another_finds_and_reads_on_from_there(valkey: Client) -> None:
    one, other, index = keeper(valkey), keeper(valkey), Index()
    assert await one.keep(place(1), entry(1), "an answer", "s1")
    assert await ids(other, index) == {"id1"}
    await one.keep(place(2), entry(2), "another", "s2")
    await one.drop(place(1))
    assert await ids(other, index) == {"id2"}
    found = await other.take(place(2))
    assert found is not None
    assert (found.entry, found.answer) == (entry(2), "another")
    assert await other.take(place(1)) is None
    assert await other.take(place(2, tenant="another")) is None


async def test_the_least_recently_used_goes_first(valkey: Client) -> None:
    for number in (1, 2, 3):
        await keeper(valkey, number, semantic_entries_count_max=3).keep(place(number), entry(number), "a", "s")
    await keeper(valkey, 10).take(place(1))
    await keeper(valkey, 11, semantic_entries_count_max=3).keep(place(4), entry(4), "a", "s")
    assert await ids(keeper(valkey), Index()) == {"id1", "id3", "id4"}


async def test_an_index_that_missed_more_than_is_remembered_begins_anew(valkey: Client) -> None:
    index, bounded = Index(), keeper(valkey, semantic_entries_count_max=2)
    await bounded.keep(place(0), entry(0), "a", "s")
    assert await ids(bounded, index) == {"id0"}
    for number in range(1, 300):
        await keeper(valkey, number, semantic_entries_count_max=2).keep(place(number), entry(number), "a", "s")
    assert await ids(bounded, index) == {"id298", "id299"}
    assert await command(valkey, "ZCARD", "isthmus:cache:{acme/scope}:changes") < 150


async def test_an_entry_is_not_given_beyond_its_time(valkey: Client) -> None:
    await keeper(valkey, ttl_ms=1_000).keep(place(1), entry(1), "a", "s")
    assert await keeper(valkey, 999, ttl_ms=1_000).take(place(1)) is not None
    assert await keeper(valkey, 1_000, ttl_ms=1_000).take(place(1)) is None


async def test_what_was_told_wrong_is_not_kept_again(valkey: Client) -> None:
    one, index = keeper(valkey, wrong_count_max=2), Index()
    await one.keep(place(1), entry(1), "a", "s")
    assert await one.drop(place(1), "id1")
    assert not await one.drop(place(1), "id1")
    assert not await one.keep(place(1), entry(1), "a", "s")
    for name in ("pair2", "pair3"):
        await one.drop(place(9), name)
    await one.bring_up(index, "acme", "scope")
    assert len(index.wrong) == 2


async def test_erasing_a_session_takes_what_was_kept_of_it(valkey: Client) -> None:
    one = keeper(valkey)
    for number in (1, 2, 3):
        await one.keep(place(number, scope=f"scope{number}"), entry(number), "a", "s" if number < 3 else "other")
    assert await one.forget("another", "s") == 0
    assert await one.forget("acme", "s") == 2
    assert await one.forget("acme", "s") == 0
    assert await one.sizes("acme") == (1, 1)


async def test_scopes_are_bounded_and_every_key_has_an_end(valkey: Client) -> None:
    for number in range(4):
        bounded = keeper(valkey, number, scopes_count_max=2)
        await bounded.keep(place(number, scope=f"scope{number}"), entry(number), "a", f"s{number}")
    assert await keeper(valkey).sizes("acme") == (2, 2)
    await keeper(valkey).add_counts("acme", {"lookups": 2})
    keys = [key async for key in scan_keys(valkey, "isthmus:cache:*")]
    assert keys
    assert all([await command(valkey, "PTTL", key) > 0 for key in keys])


@pytest.mark.parametrize("count", [500, 501])
async def test_an_index_is_read_in_pages(valkey: Client, count: int) -> None:
    one, index = keeper(valkey), Index()
    for number in range(count):
        await one.keep(place(number), entry(number), "a", "s")
    await one.bring_up(index, "acme", "scope")
    assert len(index) == count
