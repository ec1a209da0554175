"""The way from a shard to Valkey: trips that take a while, that get lost on either way, and that are sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final, TypeAlias

from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import ResponseError

from tests.simulation.database import Reply
from tests.simulation.valkey import Valkey

Argument: TypeAlias = bytes | str | int | float
Answer: TypeAlias = list[Reply | ResponseError]

_TIMEOUT_S: Final = 0.3
_RETRIES_COUNT_MAX: Final = 3


class Link:
    """One shard's client. It has the part of redis.asyncio.Redis that the store uses."""

    def __init__(self, valkey: Valkey, who: str, random: Random, loss: float) -> None:
        self._valkey = valkey
        self._who = who
        self._random = random
        self.loss = loss
        self._loop = asyncio.get_running_loop()
        self._node = valkey.primary
        self.is_cut = False
        self.is_dead = False

    async def execute_command(self, *parts: Argument) -> Reply | dict[str, int]:
        if parts[0] == "INFO":
            return {"used_memory": 0, "maxmemory": 0}
        (reply,) = await self.trip([list(map(encoded, parts))])
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def pipeline(self, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self)

    async def trip(self, commands: list[list[bytes]]) -> Answer:
        """The commands' replies. They are sent again where the connection breaks."""
        for attempt in range(_RETRIES_COUNT_MAX):
            try:
                return await self._once(commands)
            except ValkeyConnectionError:
                await asyncio.sleep(self._random.uniform(0, 0.05 * 2**attempt))
        return await self._once(commands)

    async def _once(self, commands: list[list[bytes]]) -> Answer:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        fate = self._random.random()
        if self.is_dead:
            # Nobody is left to send it, or to hear of it.
            return await answer
        if fate < self.loss:
            self._later(_TIMEOUT_S, self._fail, answer)
        else:
            self._later(self._latency_s(), self._arrive, commands, answer, fate < 2 * self.loss)
        return await answer

    def _later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        self._loop.call_later(seconds, call, *args)

    def _latency_s(self) -> float:
        if self._random.random() < 0.9:
            return self._random.uniform(0.00005, 0.001)
        return self._random.uniform(0.001, 0.05)

    def _arrive(self, commands: list[list[bytes]], answer: asyncio.Future[Answer], is_answer_lost: bool) -> None:
        node = self._node
        if self.is_cut or not node.is_up or node is self._valkey.replica:
            self._later(self._latency_s(), self._fail, answer)
            return
        replies: Answer = []
        written = 0
        for command in commands:
            if command[0] in (b"WAIT", b"WAITAOF"):
                respond = partial(self._waited, answer, replies, is_answer_lost, command[0] == b"WAITAOF")
                self._valkey.wait(node, written, int(command[-1]) / 1000, respond)
                return
            try:
                reply, has_written = self._valkey.run(node, command, self._who)
                replies.append(reply)
                written = node.offset if has_written else written
            except ResponseError as error:
                replies.append(error)
        self._respond(answer, replies, is_answer_lost)

    def _waited(
        self, answer: asyncio.Future[Answer], replies: Answer, is_answer_lost: bool, is_disk: bool, count: int
    ) -> None:
        # A node writes its own log before it answers; one that died meanwhile answers nothing.
        self._respond(answer, [*replies, [1, count] if is_disk else count], is_answer_lost or count < 0)

    def _respond(self, answer: asyncio.Future[Answer], replies: Answer, is_lost: bool) -> None:
        if is_lost:
            self._later(_TIMEOUT_S, self._fail, answer)
        else:
            self._later(self._latency_s(), self._take, answer, replies)

    def _take(self, answer: asyncio.Future[Answer], value: Answer) -> None:
        if not answer.done() and not self.is_dead:
            answer.set_result(value)

    def _fail(self, answer: asyncio.Future[Answer]) -> None:
        self._node = self._valkey.primary
        if not answer.done() and not self.is_dead:
            answer.set_exception(ValkeyConnectionError("the connection is lost"))


class Pipeline:
    """Commands that travel together on one connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._commands: list[list[bytes]] = []

    def execute_command(self, *parts: Argument) -> None:
        self._commands.append([encoded(part) for part in parts])

    def hmget(self, key: str, fields: Sequence[str]) -> None:
        self.execute_command("HMGET", key, *fields)

    def hlen(self, key: str) -> None:
        self.execute_command("HLEN", key)

    async def execute(self, raise_on_error: bool = True) -> Answer:
        replies = await self._link.trip(self._commands)
        for reply in replies:
            if raise_on_error and isinstance(reply, ResponseError):
                raise reply
        return replies


def encoded(argument: Argument) -> bytes:
    """An argument as redis-py sends it."""
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, str):
        return argument.encode()
    return repr(argument).encode()
