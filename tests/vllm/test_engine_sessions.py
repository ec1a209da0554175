"""Sessions that stay open in vLLM: they answer as the whole prompt does, and yield to what needs their room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio

from services.config import VllmSettings
from tests.support.eventually import eventually
from tests.vllm.asking import Asker, Reply, asker

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT_TOKENS = 2_048
BLOCK_TOKENS = 32
# Two contexts, and the block that stands for none.
BLOCKS = 2 * CONTEXT_TOKENS // BLOCK_TOKENS + 1
MESSAGES = ("And then?", "Name three of them, with their prices.", "Why? Say it in one word.", "Thanks.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked() -> AsyncIterator[Asker]:
    vllm = VllmSettings(
        # The same sums, however a prompt is cut into steps.
        engine_args={"dtype": "float32", "num_gpu_blocks_override": BLOCKS},
        residents_count_max=2,
        residents_kv_share_max=0.9,
        resident_tokens_min=64,
        resident_idle_ms=600_000,
    )
    async with asker(vllm, requests_running_max=2, context_tokens_max=CONTEXT_TOKENS, batch_tokens_max=256) as started:
        yield started


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nobody_is_left(asked: Asker) -> AsyncIterator[None]:
    yield
    for session in asked.engine.residents().parked:
        await asked.engine.forget(session)
    assert (asked.engine.residents().count, asked.engine.running) == (0, 0)


class Chat:
    """A session of a tenant of its own, as the room would hold it."""

    def __init__(self, asked: Asker, name: str, tokens: int = 200) -> None:
        self.asked = asked
        self.name = name
        self.window = asked.story(tokens)

    async def turn(self, message: str = "", tokens: int = 12, **more: object) -> Reply:
        """The next turn, and its reply in the window after it."""
        if message:
            self.window += self.asked.said(message)
        reply = await self.asked.ask(self.window, tokens, session=self.name, salt=self.name, **more)
        self.window += self.asked.closed(reply)
        return reply

    async def open(self) -> Chat:
        """Two turns, after which it stays open."""
        for message in ("", "Go on."):
            reply = await self.turn(message, 4)
            assert not reply.resident
        assert self.name in self.asked.engine.residents().parked
        return self


async def test_an_open_session_answers_as_the_whole_prompt_does(asked: Asker) -> None:
    chat = Chat(asked, "equal")
    replies: list[Reply] = []
    for turn, message in enumerate(("", *MESSAGES, *MESSAGES[:3])):
        # Some end by themselves, some at their length.
        replies.append(await chat.turn(message, tokens=2 + 9 * turn))
        prompt = chat.window[: -len(asked.closed(replies[-1]))]
        resent = await asked.ask(prompt, 2 + 9 * turn, salt=f"resent-{turn}")
        assert (replies[-1].ids, replies[-1].finish_reason) == (resent.ids, resent.finish_reason)
    assert [reply.resident for reply in replies] == [False, False, *[True] * 6]
    assert len({reply.finish_reason for reply in replies}) == 2


async def test_all_but_the_new_tokens_count_as_cached(asked: Asker) -> None:
    chat = await Chat(asked, "cached").open()
    before = len(chat.window)
    reply = await chat.turn("What is next?")
    # The end of the reply before was never computed, and the line after it is new.
    assert before - 4 <= (reply.cached_tokens or 0) < before
    assert reply.resident


async def test_sampling_is_each_turns_own(asked: Asker) -> None:
    chat = await Chat(asked, "sampling").open()
    for more in ({"repetition_penalty": 1.8}, {}, {"presence_penalty": 1.5, "frequency_penalty": 1.0}, {}):
        reply = await chat.turn("Tell me more.", 16, **more)
        resent = await asked.ask(chat.window[: -len(asked.closed(reply))], 16, salt=repr(more), **more)
        assert reply.resident
        assert reply.ids == resent.ids


async def test_what_an_open_session_cannot_do_is_done_beside_it(asked: Asker) -> None:
    chat = await Chat(asked, "beside").open()
    for more in ({"seed": 3, "temperature": 1.0}, {"logprobs": 1}):
        reply = await chat.turn("And now?", 6, **more)
        assert not reply.resident
        assert (reply.cached_tokens or 0) > 0, "what the session holds is a prefix like any other"
        assert asked.engine.residents().parked == ("beside",)
    reply = await chat.turn("And now?", 6)
    resent = await asked.ask(chat.window[: -len(asked.closed(reply))], 6, salt="other")
    assert (reply.resident, reply.ids) == (True, resent.ids)


async def test_a_window_that_begins_anew_is_opened_anew(asked: Asker) -> None:
    chat = await Chat(asked, "anew").open()
    chat.window = asked.said("A summary of all that was said.") + asked.story(150)
    first, second = await chat.turn(), await chat.turn("Go on.")
    assert (first.resident, second.resident) == (False, True)
    other = await asked.ask(chat.window + asked.said("Go on."), session="anew", salt="stranger")
    assert (other.resident, other.cached_tokens) == (False, 0), "another tenant's session is another one"


async def test_a_caller_that_goes_away_closes_its_session(asked: Asker) -> None:
    chat = await Chat(asked, "away").open()
    request = asked.request(chat.window + asked.said("Count to a thousand."), 900, session="away", salt="away")
    async with aclosing(asked.engine.generate(request)) as outputs:
        assert (await anext(outputs)).resident
        second = await asked.ask(chat.window + asked.said("Hm?"), 4, session="away", salt="away")
        assert not second.resident, "one turn at a time"
    assert asked.engine.residents().count == 0
    reply = await chat.turn("Go on.")
    assert (reply.resident, (reply.cached_tokens or 0) > 100) == (False, True)


async def test_a_cancelled_task_closes_its_session_too(asked: Asker) -> None:
    chat = await Chat(asked, "cancelled").open()
    turn = asyncio.create_task(chat.turn("Count to a thousand.", 900))
    steps = asked.engine.steps
    await eventually(lambda: asked.engine.steps > steps + 3, 60)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert (asked.engine.residents().count, asked.engine.running) == (0, 0)


async def test_a_forgotten_session_is_closed(asked: Asker) -> None:
    chat = await Chat(asked, "forgotten").open()
    assert len(chat.window) - 4 <= await asked.engine.forget("forgotten") < len(chat.window)
    assert await asked.engine.forget("forgotten") == 0
    assert not (await chat.turn("Go on.")).resident


async def test_an_idle_session_is_closed(asked: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = await Chat(asked, "idle").open()
    residents = asked.engine.residents()
    monkeypatch.setattr(residents, "bounds", replace(residents.bounds, idle_s=0.05))
    await chat.turn("Go on.")
    await eventually(lambda: residents.count == 0, 60)
    await asked.ask(asked.said("Hi."), 1)
    assert asked.engine.kv_use() < 0.1, "what it held is free"


async def test_a_request_is_not_starved_by_parked_sessions(asked: Asker) -> None:
    """Two residents hold three quarters of the cache, and vLLM would let them: a request of more waits for ever."""
    for name in ("first", "second"):
        await Chat(asked, name, 1_500).open()
    assert asked.engine.residents().parked == ("first", "second")
    async with asyncio.timeout(90):
        reply = await asked.ask(asked.story(1_400), 500, salt="starving")
    assert reply.ids
    assert asked.engine.residents().parked == ("second",), "idle longest leaves first"


async def test_the_last_turn_before_the_end_of_the_context_ends_at_it(asked: Asker) -> None:
    chat = await Chat(asked, "full", 1_700).open()
    room = CONTEXT_TOKENS - len(chat.window)
    reply = await chat.turn("Count to a thousand. " + "Count! " * (room // 4), room)
    assert reply.resident
    assert len(chat.window) <= CONTEXT_TOKENS + 4
    assert "Paris" in (await asked.ask(asked.said("What is the capital of France?"), 12)).text
