"""The book of jobs against a model of it: any order of entries and ends leaves what the model says, and its sums."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.jobs.book import JobBook, Shelf
from gateway.jobs.record import JobRecord, JobState
from services.config import JobSettings, Settings
from services.errors import IsthmusError
from services.valkey import Acknowledger, connect

BOUNDS = JobSettings(queued_count_max=3, queued_bytes_max=100, dead_count_max=2, dead_bytes_max=60, ended_count_max=2)


@pytest_asyncio.fixture
async def book(settings: Settings) -> AsyncIterator[JobBook]:
    """A book with small bounds."""
    valkey = connect(settings.valkey)
    acknowledger = Acknowledger(valkey, settings.valkey)
    yield JobBook(valkey, acknowledger, BOUNDS)
    await acknowledger.aclose()
    await valkey.aclose()


def job(session: str, turn: int = 1, *, at: int = 1, incarnation: bytes = b"i", tenant: str = "t") -> JobRecord:
    """A job that waits."""
    return JobRecord(tenant=tenant, session=session, turn=turn, incarnation=incarnation, request_id="r", create_ms=at)


def over(record: JobRecord, state: JobState = JobState.DONE, at: int = 2) -> JobRecord:
    """The job at its end."""
    return msgspec.structs.replace(record, state=state, end_ms=at)


async def names(book: JobBook, shelf: Shelf, tenant: str = "t") -> list[str]:
    """What is on a shelf, newest first."""
    return [each.name for each in await book.page(tenant, shelf, 0, 10)]


async def sums(valkey: Redis) -> tuple[int, int]:
    """Bytes of live jobs' requests, and of dead letters'."""
    found = [await valkey.hget("isthmus:{jobs:t}:sums", name) for name in ("live_bytes", "dead_bytes")]
    return int(found[0] or 0), int(found[1] or 0)


async def test_a_job_is_entered_once_noted_and_ended_once(book: JobBook, valkey: Redis) -> None:
    one = job("s1")
    assert await book.enter(one, b"request")
    assert not await book.enter(one, b"request"), "it is known"
    running = msgspec.structs.replace(one, state=JobState.RUNNING, attempt=1)
    assert await book.change(running)
    assert await book.find("t", "s1/1") == running
    assert await book.find("other", "s1/1") is None
    assert await book.leave(over(one), Shelf.ENDED)
    assert not await book.leave(over(one), Shelf.ENDED), "a second time changes nothing"
    assert not await book.change(running), "it is not live any more"
    assert (await names(book, Shelf.LIVE), await names(book, Shelf.ENDED)) == ([], ["s1/1"])
    assert await book.request("t", "s1/1") is None
    assert await sums(valkey) == (0, 0)


async def test_bounds_are_refused_or_push_the_oldest_out(book: JobBook, valkey: Redis) -> None:
    for at in range(3):
        await book.enter(job(f"s{at}", at=at), b"x" * 10)
    with pytest.raises(IsthmusError, match="queued_count_max"):
        await book.enter(job("s9"), b"")
    for at in range(3):
        await book.leave(over(job(f"s{at}"), JobState.DEAD, at=10 + at), Shelf.DEAD)
    assert await names(book, Shelf.DEAD) == ["s2/1", "s1/1"]
    assert await book.find("t", "s0/1") is None
    assert await sums(valkey) == (0, 20)
    with pytest.raises(IsthmusError, match="queued_bytes_max"):
        await book.enter(job("s9"), b"x" * 101)
    await book.enter(job("s9"), b"x" * 90)
    await book.leave(over(job("s9"), JobState.DEAD, at=20), Shelf.DEAD)
    assert await names(book, Shelf.DEAD) == ["s9/1"], "the newest stays, however large it is"
    assert await book.forget("t", "s9/1", 30)
    assert not await book.forget("t", "s9/1", 30)
    assert await sums(valkey) == (0, 0)


async def test_a_session_takes_its_jobs_with_it_and_nobody_elses(book: JobBook, valkey: Redis) -> None:
    for session, turn in (("s1", 1), ("s1", 2), ("s10", 1)):
        await book.enter(job(session, turn), b"x" * 10)
    await book.leave(over(job("s1", 1), JobState.DEAD), Shelf.DEAD)
    assert await book.erase("t", "s1", 5) == 2
    assert (await names(book, Shelf.LIVE), await names(book, Shelf.DEAD)) == (["s10/1"], [])
    assert await sums(valkey) == (10, 0)
    assert await book.erase("t", "s1", 5) == 0


async def test_a_turn_of_a_later_session_of_the_same_id_is_another_job(book: JobBook, valkey: Redis) -> None:
    old, new = job("s1", incarnation=b"old"), job("s1", incarnation=b"new")
    await book.enter(old, b"x" * 10)
    assert await book.enter(new, b"x" * 20)
    assert not await book.leave(over(old), Shelf.ENDED), "what is delivered of the old one ends nothing"
    assert await names(book, Shelf.LIVE) == ["s1/1"]
    assert await sums(valkey) == (20, 0)
    await book.leave(over(new, JobState.DEAD), Shelf.DEAD)
    assert await book.enter(job("s1", incarnation=b"third"), b"x" * 5)
    assert await names(book, Shelf.DEAD) == []
    assert await sums(valkey) == (5, 0)


async def test_of_many_who_enter_the_same_job_one_does(book: JobBook) -> None:
    entered = await asyncio.gather(*(book.enter(job("s1"), b"x") for _ in range(10)))
    assert sum(entered) == 1
