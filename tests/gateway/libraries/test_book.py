"""The book of libraries' files on a real Valkey: entered once, changed by who has read it, in pages, with an end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.libraries.attachment import Attachment, AttachmentState, Batch
from gateway.libraries.book import Book, FileCounts, Place
from services.config import LibrariesSettings, Settings
from services.errors import IsthmusError
from services.valkey import Acknowledger, connect

PLACE = Place("acme", "notes")
_MARKS = count()


@pytest_asyncio.fixture
async def book(settings: Settings) -> AsyncIterator[Book]:
    """Small enough to be full."""
    valkey = connect(settings.valkey)
    acknowledger = Acknowledger(valkey, settings.valkey)
    yield Book(valkey, acknowledger, LibrariesSettings(library_files_count_max=6, batches_count_max=2))
    for library in ("notes", "brief"):
        await Book(valkey, acknowledger, LibrariesSettings()).erase(Place("acme", library))
    await acknowledger.aclose()
    await valkey.aclose()


def record(file: str, create_ms: int = 1, text_bytes: int = 0, **fields: object) -> Attachment:
    """A file that is attached now."""
    made = Attachment(file=file, mark=f"{next(_MARKS):016x}", create_ms=create_ms, text_bytes=text_bytes)
    return msgspec.structs.replace(made, **fields)


def over(attachment: Attachment, state: AttachmentState, text_bytes: int = 0) -> Attachment:
    """The file at its end."""
    return msgspec.structs.replace(attachment, state=state, text_bytes=text_bytes)


async def test_a_file_is_entered_once_until_it_has_come_to_nothing(book: Book) -> None:
    first, second, third = (record("a") for _ in range(3))
    assert await book.enter(PLACE, first) == (first, True)
    assert await book.enter(PLACE, second) == (first, False)
    assert await book.change(PLACE, first, over(first, AttachmentState.FAILED, 10))
    assert await book.counts(PLACE) == FileCounts(failed=1, text_bytes=10)
    assert await book.enter(PLACE, third) == (third, True)
    assert await book.counts(PLACE) == FileCounts(in_progress=1)


async def test_a_change_is_of_what_was_read(book: Book) -> None:
    made = record("a")
    await book.enter(PLACE, made)
    one, other = over(made, AttachmentState.COMPLETED, 5), over(made, AttachmentState.CANCELLED)
    assert await book.change(PLACE, made, one)
    # Again, for an answer that was lost; and by who has read what stood before.
    assert await book.change(PLACE, made, one)
    assert not await book.change(PLACE, made, other)
    assert not await book.change(PLACE, made, None)
    assert await book.find(PLACE, "a") == one
    assert await book.change(PLACE, one, None)
    assert await book.change(PLACE, one, None)
    assert await book.find(PLACE, "a") is None
    assert await book.counts(PLACE) == FileCounts()


async def test_a_library_has_so_many_files(book: Book) -> None:
    for number in range(6):
        await book.enter(PLACE, record(f"f{number}"))
    with pytest.raises(IsthmusError, match="library_files_count_max"):
        await book.enter(PLACE, record("more"))
    found = await book.find(PLACE, "f0")
    assert found is not None
    await book.change(PLACE, found, None)
    assert (await book.enter(PLACE, record("more")))[1]


async def test_pages_follow_one_another_whichever_state_they_show(book: Book) -> None:
    # Some of the same millisecond.
    made = [record(f"f{number}", create_ms=10 + number // 3) for number in range(6)]
    for each in made:
        await book.enter(PLACE, each)
    for order in ("asc", "desc"):
        wanted = [each.file for each in made]
        wanted = wanted if order == "asc" else wanted[::-1]
        for size in (1, 2, 4, 6):
            read: list[str] = []
            while page := await book.page(PLACE, after=read[-1] if read else "", count=size, order=order):
                read += [each.file for each in page]
            assert read == wanted
    await book.change(PLACE, made[3], over(made[3], AttachmentState.FAILED))
    failed = await book.page(PLACE, after="f1", count=5, order="asc", state=AttachmentState.FAILED)
    assert failed is not None
    # What the page begins behind need not be of the state that it shows.
    assert [each.file for each in failed] == ["f3"]
    assert await book.page(PLACE, after="unknown", count=5, order="asc") is None


async def test_the_book_ends_with_its_library(book: Book, valkey: Redis) -> None:
    place = Place("acme", "brief")
    await book.put_batch(place, Batch(id="b0", create_ms=1, files=["a"]), kept_ms=60_000)
    made = record("a")
    await book.enter(place, made, kept_ms=60_000)
    await book.change(place, made, over(made, AttachmentState.COMPLETED, 5))
    keys = [key async for key in valkey.scan_iter("isthmus:{library:acme/brief}:*")]
    assert len(keys) >= 5
    assert all(0 < life <= 60_000 for life in [await valkey.pttl(key) for key in keys])
    await book.keep(place, 0)
    assert {await valkey.pttl(key) for key in keys} == {-1}


async def test_the_newest_batches_are_remembered(book: Book) -> None:
    for number in range(3):
        await book.put_batch(PLACE, Batch(id=f"b{number}", create_ms=number, files=[f"f{number}"]))
    assert await book.batch(PLACE, "b0") is None
    kept = await book.batch(PLACE, "b2")
    assert kept is not None
    assert kept.files == ["f2"]
