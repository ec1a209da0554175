"""A reader who is slower than the engine gets fewer deltas, and the same reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.inference.v1 import inference_service_pb2

from inference.merging import merging

Delta = inference_service_pb2.GenerateResponse.Delta


async def said(texts: list[str], pauses: list[int]) -> AsyncGenerator[Delta, None]:
    for number, text in enumerate(texts):
        for _ in range(pauses[number % len(pauses)]):
            await asyncio.sleep(0)
        yield Delta(text=text, token_ids=[number], is_last=number == len(texts) - 1)


async def read(texts: list[str], pauses: list[int], reader: list[int], count_max: int) -> list[Delta]:
    got: list[Delta] = []
    async with merging(said(texts, pauses), count_max) as deltas:
        async for delta in deltas:
            got.append(delta)
            for _ in range(reader[len(got) % len(reader)]):
                await asyncio.sleep(0)
    return got


async def test_what_comes_while_the_reader_is_busy_comes_as_one() -> None:
    got = await read(["a", "b", "c", "d"], [0], [50], count_max=64)
    assert [delta.text for delta in got] == ["abcd"]
    assert list(got[0].token_ids) == [0, 1, 2, 3]
    assert got[0].is_last


async def test_a_reader_who_waits_gets_each_as_it_comes() -> None:
    got = await read(["a", "b", "c"], [9], [0], count_max=64)
    assert [delta.text for delta in got] == ["a", "b", "c"]
    assert [delta.is_last for delta in got] == [False, False, True]


paces = st.lists(st.integers(0, 4), min_size=1, max_size=5)


@given(st.lists(st.text(max_size=3), max_size=30), paces, paces, st.integers(1, 8))
def test_nothing_is_lost_or_moved_and_the_bound_is_kept(
    texts: list[str], pauses: list[int], reader: list[int], count_max: int
) -> None:
    got = asyncio.run(read(texts, pauses, reader, count_max))
    assert "".join(delta.text for delta in got) == "".join(texts)
    assert [number for delta in got for number in delta.token_ids] == list(range(len(texts)))
    assert all(len(delta.token_ids) <= count_max for delta in got)
    assert [delta.is_last for delta in got] == [False] * (len(got) - 1) + [True] * bool(got)


async def test_an_error_comes_behind_what_was_said_before_it() -> None:
    async def breaks() -> AsyncGenerator[Delta, None]:
        yield Delta(text="so far")
        raise ValueError("no further")

    async with merging(breaks(), 8) as deltas:
        assert (await anext(deltas)).text == "so far"
        with pytest.raises(ValueError, match="no further"):
            await anext(deltas)


async def test_who_leaves_ends_the_engines_work_at_once() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[Delta, None]:
        try:
            while True:
                yield Delta(text="on and on")
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with merging(endless(), 4) as deltas:
        assert (await anext(deltas)).text
    assert ended.is_set()
