"""The way from clients to shards: calls that are late, lost on either way, carried out twice, or broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar, cast

from google.protobuf.message import Message
from isthmus.errors.v1 import errors_pb2

from services.errors import IsthmusError
from tests.simulation.shard import Shard
from tests.simulation.trace import Trace

Answer = TypeVar("Answer", bound=Message)

_CALL_S_MAX: Final = 2.5
_PAUSE_S: Final = 0.03

# The call may have been carried out, or not: the same again is what helps.
_UNKNOWN: Final = (
    errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    errors_pb2.ERROR_REASON_NOT_READY,
    errors_pb2.ERROR_REASON_NOT_REPLICATED,
    errors_pb2.ERROR_REASON_SESSION_MOVED,
    errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
    errors_pb2.ERROR_REASON_OVERLOADED,
)


class Network:
    """Carries calls. `loss` and `repeats` are shares of messages."""

    def __init__(self, shards: Sequence[Shard], random: Random, trace: Trace, loss: float, repeats: float) -> None:
        self._shards = shards
        self._random = random
        self._trace = trace
        self.loss = loss
        self.repeats = repeats
        self._loop = asyncio.get_running_loop()

    async def settled(
        self, who: str, method: str, request: Message | Sequence[Message], answer: type[Answer], seconds_max: float
    ) -> Answer | IsthmusError | None:
        """The answer, or what was refused; asked again of any shard for as long as it is not known what came of it.

        None when the time is over. Every try is the same message, as a gateway sends it.
        """
        until = self._loop.time() + seconds_max
        owner = ""
        while (left_s := until - self._loop.time()) > 0:
            said = await self._call(who, method, request, owner, min(left_s, _CALL_S_MAX))
            owner = said.metadata.get("owner", "") if isinstance(said, IsthmusError) else ""
            if isinstance(said, IsthmusError) and said.reason not in _UNKNOWN:
                return said
            if said is not None and not isinstance(said, IsthmusError):
                return cast(Answer, said)
            await asyncio.sleep(self._random.uniform(0, _PAUSE_S))
        return None

    async def _call(
        self, who: str, method: str, request: Message | Sequence[Message], owner: str, seconds_max: float
    ) -> Message | IsthmusError | None:
        # Sent where a shard has pointed to, or anywhere: by an old view, or past a shard that did not answer.
        named = [shard for shard in self._shards if shard.name == owner]
        shard = named[0] if named else self._random.choice(self._shards)
        is_redirected = bool(named) or self._random.random() < 0.3
        answer: asyncio.Future[Message | IsthmusError | None] = self._loop.create_future()
        if self._random.random() >= self.loss:
            self._loop.call_later(self._latency_s(), self._arrive, shard, who, method, request, is_redirected, answer)
        if self._random.random() < self.repeats:
            late_s = self._random.uniform(0, 1.0)
            self._loop.call_later(late_s, self._arrive, shard, f"{who}'", method, request, is_redirected, None)
        try:
            async with asyncio.timeout(seconds_max if self._random.random() < 0.9 else 0.05):
                return await answer
        except TimeoutError:
            self._trace.note(who, f"no answer to {method}", shard.name)
            return None

    def _arrive(
        self,
        shard: Shard,
        who: str,
        method: str,
        request: Message | Sequence[Message],
        is_redirected: bool,
        answer: asyncio.Future[Message | IsthmusError | None] | None,
    ) -> None:
        if not shard.is_up:
            self._later(answer, None)
            return
        self._trace.note(who, f"{method} at {shard.name}")
        served = shard.serve(method, request, is_redirected=is_redirected)
        served.add_done_callback(lambda task: self._served(who, method, shard, task, answer))

    def _served(
        self,
        who: str,
        method: str,
        shard: Shard,
        task: asyncio.Task[Message | IsthmusError],
        answer: asyncio.Future[Message | IsthmusError | None] | None,
    ) -> None:
        if task.cancelled() or task.exception():
            self._later(answer, None)
            return
        said = task.result()
        told = errors_pb2.ErrorReason.Name(said.reason)[13:] if isinstance(said, IsthmusError) else "ok"
        self._trace.note(shard.name, f"{method} of {who}", told)
        if self._random.random() >= self.loss:
            self._later(answer, said)

    def _later(
        self, answer: asyncio.Future[Message | IsthmusError | None] | None, said: Message | IsthmusError | None
    ) -> None:
        if answer is not None:
            self._loop.call_later(self._latency_s(), lambda: None if answer.done() else answer.set_result(said))

    def _latency_s(self) -> float:
        if self._random.random() < 0.9:
            return self._random.uniform(0.0001, 0.003)
        return self._random.uniform(0.003, 0.3)
