"""Very many sessions behind a gateway: each is known by its number, and its text can be told again from that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import grpc
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import session_pb2

from services.cli.bench.client import BenchClient
from services.cli.bench.patience import Patience
from services.cli.bench.text import delta, text
from services.errors import from_rpc_error

T = TypeVar("T")

# One connection carries one client's calls in order of arrival; a crowd comes over several.
_CONNECTIONS: Final = 8
_PAGE_COUNT: Final = 1_000
# Texts are cut from one of so many tokens, each at a place of its own.
_POOL_TOKENS: Final = 32_768
_STRIDE: Final = 61
# Live sessions' turns in flight at most.
_TURNS_CONCURRENT: Final = 8


class Crowd:
    """Its sessions are `crowd-000000` and so on. Calls are made again as their refusals say."""

    def __init__(self, clients: Sequence[BenchClient], text_bytes: int, seed: int) -> None:
        self._clients = clients
        self._bytes = text_bytes
        self._pool = text(_POOL_TOKENS, seed)
        self.patience = Patience()

    @classmethod
    @asynccontextmanager
    async def at(cls, target: str, text_bytes: int, seed: int) -> AsyncIterator[Crowd]:
        """The crowd at a gateway, which it leaves as it is."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(BenchClient(target)) for _ in range(_CONNECTIONS)]
            yield cls(clients, text_bytes, seed)

    def session(self, number: int) -> str:
        """The session's id."""
        return f"crowd-{number:06d}"

    def text(self, number: int) -> str:
        """What is appended to it: ASCII, and no other session's."""
        begin = number * _STRIDE % (len(self._pool) - self._bytes)
        return (f"Session {number}:" + self._pool[begin : begin + self._bytes])[: self._bytes]

    async def create(self, number: int) -> None:
        """Makes the session with its text."""
        session, client = self.session(number), self._client(number)
        await self.patience.done(lambda: _made(client, session))
        await self.patience.done(lambda: client.append(session, self.text(number), "text"))

    async def turn(self, number: int, turn: int) -> float:
        """Runs a turn; the milliseconds that the mesh took beside the engine."""
        client = self._client(number)
        return (await self.patience.done(lambda: client.turn(self.session(number), delta(turn)))).overhead_ms

    async def answers(self, number: int) -> bool:
        """Whether the session's text is what was appended."""
        client = self._client(number)
        return await self.patience.done(lambda: client.appended(self.session(number))) == self.text(number)

    async def pages(self) -> AsyncIterator[tuple[Sequence[session_pb2.Session], float]]:
        """All sessions, page by page, with the milliseconds that each page took."""
        token = ""
        while True:
            started = time.perf_counter()
            page = await self.patience.done(partial(self._clients[0].page, token, _PAGE_COUNT))
            yield page.sessions, (time.perf_counter() - started) * 1_000
            token = page.next_page_token
            if not token:
                return

    async def keep_live(self, numbers: Sequence[int], each_s: float, took: Callable[[float], object]) -> None:
        """Gives each of the sessions a turn every `each_s` until it is cancelled; `took` is told its milliseconds."""
        shares = [numbers[place::_TURNS_CONCURRENT] for place in range(_TURNS_CONCURRENT)]
        async with asyncio.TaskGroup() as group:
            for share in filter(None, shares):
                group.create_task(self._go_round(share, each_s / len(share), took))

    async def _go_round(self, numbers: Sequence[int], pause_s: float, took: Callable[[float], object]) -> None:
        turn, due = 0, time.monotonic()
        while True:
            for number in numbers:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                took(await self.turn(number, turn))
                # What the mesh was too slow for is not caught up with.
                due = max(due + pause_s, time.monotonic())
            turn += 1

    def _client(self, number: int) -> BenchClient:
        return self._clients[number % len(self._clients)]


async def each(
    numbers: Sequence[int], work: Callable[[int], Awaitable[T]], concurrent: int, done: Callable[[int], object]
) -> list[T]:
    """What the work says of each number, `concurrent` at once; `done` is told how many there are."""
    found: list[T] = []
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            found.append(await work(number))
            done(len(found))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrent, len(numbers))):
            group.create_task(worker())
    return found


async def _made(client: BenchClient, session: str) -> None:
    """A session that is there was made by an attempt whose answer was lost: nobody else makes them."""
    try:
        await client.create(session)
    except grpc.aio.AioRpcError as error:
        if from_rpc_error(error).reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
            raise
