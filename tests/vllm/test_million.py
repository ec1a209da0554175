"""Long windows in vLLM, for real: what a prefix hit and an open session save, at two hundred thousand tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import pytest_asyncio

from inference.million_model import TOKENS_MAX, write_million_model
from tests.vllm.engines import Reply, engine, generate, sampling

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW_TOKENS: Final = 200_000
_BLOCK_TOKENS: Final = 32


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(million_folder: Path) -> AsyncIterator[Any]:
    async with engine(million_folder, max_model_len=TOKENS_MAX, kv_cache_memory_bytes=2 << 30) as started:
        yield started


def _tokens(count: int, seed: int) -> list[int]:
    """Plain tokens, none of which ends a reply."""
    drawn: list[int] = np.random.default_rng(seed).integers(17, 49_152, count).tolist()
    return drawn


async def _timed(llm: Any, ids: Sequence[int], request_id: str, salt: str = "tenant") -> tuple[Reply, float]:
    began = time.monotonic()
    reply = await generate(llm, ids, request_id, salt, max_tokens=4, ignore_eos=True)
    return reply, time.monotonic() - began


async def test_a_window_again_costs_its_delta(llm: Any) -> None:
    window = _tokens(WINDOW_TOKENS, seed=1)
    cold, cold_s = await _timed(llm, window, "cold")
    again, again_s = await _timed(llm, window, "again")
    more, _ = await _timed(llm, [*window, *cold.ids, *_tokens(50, seed=2)], "more")
    assert cold.cached == 0
    assert again.ids == cold.ids
    for reply in (again, more):
        assert WINDOW_TOKENS - _BLOCK_TOKENS <= reply.cached <= WINDOW_TOKENS + _BLOCK_TOKENS
    assert cold_s / again_s > 3


async def test_another_salt_shares_nothing(llm: Any) -> None:
    window = _tokens(20_000, seed=3)
    replies = [await generate(llm, window, f"salt-{salt}", salt, max_tokens=1) for salt in ("one", "two", "one")]
    assert [reply.cached for reply in replies] == [0, 0, 20_000 - _BLOCK_TOKENS]


async def test_an_open_session_says_what_a_window_resent_says(llm: Any) -> None:
    window = _tokens(20_000, seed=4)
    turns: list[Reply] = []
    async with _Session(llm, "open", "session") as session:
        for number in range(4):
            delta = window if number == 0 else _tokens(50, seed=10 + number)
            turns.append(await session.turn(delta))
    sent: list[int] = []
    for number, turn in enumerate(turns):
        sent += window if number == 0 else _tokens(50, seed=10 + number)
        resent, _ = await _timed(llm, sent, f"resent-{number}", salt="resender")
        assert turn.ids == resent.ids
        sent += turn.ids
    # Closed, it leaves its window to the others of its salt.
    after, _ = await _timed(llm, sent, "after", salt="session")
    assert after.cached >= len(window) - _BLOCK_TOKENS


class _Session:
    """vLLM's streaming input: one request that takes a turn after another."""

    def __init__(self, llm: Any, request_id: str, salt: str) -> None:
        self._inputs: asyncio.Queue[Any] = asyncio.Queue()
        self._salt = salt
        self._last: list[int] = []
        self._outputs = llm.generate(self._stream(), sampling(), request_id)

    async def __aenter__(self) -> _Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._inputs.put_nowait(None)
        assert [output async for output in self._outputs] == []

    async def turn(self, delta: Sequence[int]) -> Reply:
        """The engine has forgotten the last token that it gave, which was never read: it is sent again."""
        from vllm import TokensPrompt
        from vllm.engine.protocol import StreamingInput

        prompt = TokensPrompt(prompt_token_ids=[*self._last, *delta], cache_salt=self._salt)
        self._inputs.put_nowait(StreamingInput(prompt, sampling(max_tokens=4, ignore_eos=True)))
        ids: list[int] = []
        while True:
            output = await anext(self._outputs)
            ids += output.outputs[0].token_ids
            if output.outputs[0].finish_reason:
                self._last = ids[-1:]
                return Reply(ids, output.outputs[0].finish_reason, 0, [])

    async def _stream(self) -> AsyncIterator[Any]:
        while (each := await self._inputs.get()) is not None:
            yield each


async def test_the_model_is_the_same_for_a_seed(million_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        write_million_model(tmp_path / name, model_folder, seed)
    weights = (million_folder / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights
