"""Requests in vLLM: each alone, or as the next turn of a session that stays open there.

An open session is one request of vLLM's streaming input: it gets what its prompt has beyond what it holds, and keeps
its keys and values until it is closed. Of a turn's output vLLM keeps all but the last token, for which nothing was
computed yet. So the next turn's prompt begins with what is held wherever its window still goes on from there, and the
answer is that to the whole prompt, token for token.

vLLM takes neither a seed nor a form nor log probabilities for a later turn, and one adapter and priority for all of
them: what asks for such a thing is served alone. A session beyond the model's context would end vLLM's process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import structlog
from vllm import SamplingParams, TokensPrompt
from vllm.engine.protocol import StreamingInput
from vllm.sampling_params import RequestOutputKind

from inference.engine import engine_failed
from inference.residents import Ask, Bounds, Place, Residents
from inference.tokenizer import TokenIds

# How a turn ends after which its session can go on.
_WHOLE: Final = ("stop", "length")

_log = structlog.get_logger("vllm sessions")


@dataclass(frozen=True, slots=True)
class Work:
    """A request as vLLM gets it, under a number of its own; `session` is empty for one of no session."""

    number: str
    session: str
    prompt: TokenIds
    params: Any
    cache_salt: str = ""
    priority: int = 0
    adapter: Any = None

    @property
    def is_lasting(self) -> bool:
        """Whether an open session may serve it."""
        own = (self.params.seed, self.params.structured_outputs, self.params.logprobs, self.adapter)
        return bool(self.session) and all(each is None for each in own)

    def input(self, held_tokens: int = 0) -> Any:
        """The prompt without its beginning."""
        prompt = TokensPrompt(prompt_token_ids=self.prompt[held_tokens:].tolist())
        if self.cache_salt:
            prompt["cache_salt"] = self.cache_salt
        return prompt


@dataclass(frozen=True, slots=True)
class Output:
    """One of vLLM's outputs, with the prompt's tokens that were there already."""

    completion: Any
    cached_tokens: int | None
    resident: bool = False


class OpenSession:
    """A session in vLLM, from its first turn until it is closed."""

    def __init__(self, llm: Any, work: Work) -> None:
        self.number = work.number
        self._salt = work.cache_salt
        self._priority = work.priority
        # What vLLM has keys and values of, as long as it is not in a turn.
        self.held: TokenIds = work.prompt[:0]
        self.in_turn = False
        # A turn puts one input and waits for its end.
        self._inputs: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        checked = SamplingParams(detokenize=False, output_kind=RequestOutputKind.DELTA)
        self._outputs = llm.generate(self._given(), checked, work.number, priority=work.priority)

    def is_continued_by(self, work: Work) -> bool:
        """Whether what is held begins the prompt; a million tokens are compared in a millisecond."""
        same = (work.cache_salt, work.priority) == (self._salt, self._priority)
        begins = same and len(work.prompt) > len(self.held)
        return begins and np.array_equal(work.prompt[: len(self.held)], self.held)

    async def turn(self, work: Work) -> AsyncGenerator[Output, None]:
        """A turn's outputs. With the last of them the turn is over, and another may begin."""
        resumed, self.in_turn = len(self.held), True
        self._inputs.put_nowait(StreamingInput(prompt=work.input(resumed), sampling_params=work.params))
        ids: list[int] = []
        while (output := await anext(self._outputs, None)) is not None:
            completion = output.outputs[0]
            ids += completion.token_ids
            if completion.finish_reason in _WHOLE:
                self.held = np.concatenate([work.prompt, np.asarray(ids[:-1], dtype=np.int32)])
                self.in_turn = False
            yield Output(completion, resumed or output.num_cached_tokens, resident=resumed > 0)
            if completion.finish_reason:
                return
        raise engine_failed("the engine closed the session in the middle of this")

    async def close(self) -> None:
        """Gives its place and its memory back. What it held is in the prefix cache until that needs the room."""
        await self._outputs.aclose()

    async def _given(self) -> AsyncGenerator[Any, None]:
        while True:
            yield await self._inputs.get()


class Sessions:
    """All requests in one vLLM. `residents` decides who stays."""

    def __init__(self, llm: Any, bounds: Bounds) -> None:
        self._llm = llm
        self.residents: Final = Residents(bounds)
        self._open: dict[str, OpenSession] = {}
        # Requests of vLLM's with somebody who waits for their output.
        self._running: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._idling: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Requests that somebody waits for."""
        return len(self._running)

    async def run(self, work: Work) -> AsyncGenerator[Output, None]:
        """A request's outputs. Closing it ends the request, and the session if it was in one."""
        known = self._open.get(work.session)
        ask = Ask(
            session=work.session,
            prompt_tokens=len(work.prompt),
            output_tokens_max=work.params.max_tokens,
            lasting=work.is_lasting,
            continues=known is not None and known.is_continued_by(work),
        )
        turn = self.residents.begin(ask, time.monotonic())
        self._close(turn.leaving)
        if turn.place is Place.ALONE:
            session, number, source = None, work.number, self._alone(work)
        else:
            session = self._session(turn.place, work)
            number, source = session.number, session.turn(work)
        self._running.add(number)
        try:
            async with aclosing(source) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self._running.discard(number)
            held_tokens = None if session is None or session.in_turn else len(session.held)
            stays = self.residents.end(turn, held_tokens, time.monotonic())
            if session is not None and not stays:
                self._close((work.session,))
            self._watch_idling()

    async def forget(self, session: str) -> int:
        """Closes a session, or has it closed when its turn ends; the tokens that it held."""
        known = self._open.get(session)
        if self.residents.forget(session):
            await asyncio.gather(*self._close((session,)))
        return 0 if known is None else len(known.held)

    async def stop(self) -> None:
        """Ends all requests, which fail, and closes what is parked."""
        await self._llm.abort(tuple(self._running))
        for session in self.residents.parked:
            self.residents.forget(session)
            self._close((session,))
        self._watch_idling()
        await asyncio.gather(*self._closing)

    def _session(self, place: Place, work: Work) -> OpenSession:
        if place is Place.OPENED:
            self._open[work.session] = OpenSession(self._llm, work)
        return self._open[work.session]

    async def _alone(self, work: Work) -> AsyncGenerator[Output, None]:
        outputs = self._llm.generate(
            work.input(), work.params, work.number, lora_request=work.adapter, priority=work.priority
        )
        async with aclosing(outputs):
            async for output in outputs:
                yield Output(output.outputs[0], output.num_cached_tokens)

    def _close(self, sessions: Iterable[str]) -> list[asyncio.Task[None]]:
        """Begins to close them. A task each, since whoever had them leave may go away meanwhile."""
        tasks = [asyncio.create_task(_closed(self._open.pop(session)), name="close a session") for session in sessions]
        for task in tasks:
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return tasks

    def _watch_idling(self) -> None:
        """Sets the timer to the next session that will have idled for too long."""
        if self._idling is not None:
            self._idling.cancel()
            self._idling = None
        expires_s = self.residents.expires_s
        if expires_s is not None:
            wait_s = max(0.0, expires_s - time.monotonic())
            self._idling = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def _expire(self) -> None:
        self._close(self.residents.expire(time.monotonic()))
        self._watch_idling()


async def _closed(session: OpenSession) -> None:
    try:
        await session.close()
    except Exception:  # noqa: BLE001 - vLLM is going away, or gone, and the session with it
        _log.warning("a session was not closed in order", exc_info=True)
