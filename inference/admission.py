"""The door to the engine: requests wait here for their turn, and are put out together when the engine is lost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from typing import Final, TypeAlias

from isthmus.errors.v1 import errors_pb2

from inference.engine import EngineOutput
from inference.queue import QueueFull, RequestQueue, Ticket, TooLate
from services.config import InferenceSettings
from services.errors import IsthmusError, UpstreamUnavailable
from services.rpc import deadlines

Outputs: TypeAlias = AsyncGenerator[EngineOutput, None]


class Admission:
    """One replica's queue, and the requests that it has let in."""

    def __init__(self, settings: InferenceSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue: Final = RequestQueue(settings)
        self._clock = clock
        self._turns: dict[Ticket, asyncio.Future[IsthmusError | None]] = {}
        self._stays: set[Stay] = set()
        self._closed = ""

    @property
    def awaiting(self) -> int:
        """Requests that wait for the engine's next output now; those whose caller does not read do not count."""
        return sum(stay.is_awaiting for stay in self._stays)

    @contextmanager
    def accept(self, priority: int = 0) -> Iterator[Stay]:
        """A request from its arrival to its end, with the deadline of the rpc that is being served.

        Raises OVERLOADED with RetryInfo, DEADLINE_EXCEEDED for one that could not begin in time, and
        UPSTREAM_UNAVAILABLE while it is closed.
        """
        self.check()
        remaining_s, now_s = deadlines.remaining_s(), self._clock()
        with _refusals():
            ticket = self.queue.accept(priority, math.inf if remaining_s is None else now_s + remaining_s, now_s)
        stay = Stay(self, ticket)
        self._stays.add(stay)
        try:
            yield stay
        finally:
            self._stays.discard(stay)
            self.queue.end(ticket)

    def close(self, message: str) -> None:
        """Refuses who comes, and fails all that are in: at once where they wait, else at the engine's next output."""
        self._closed = message
        for stay in self._stays:
            stay.put_out(message)
            self._tell(stay.ticket, UpstreamUnavailable(message))

    def open(self) -> None:
        """Lets requests in again."""
        self._closed = ""

    def check(self) -> None:
        """Raises UPSTREAM_UNAVAILABLE while it is closed."""
        if self._closed:
            raise UpstreamUnavailable(self._closed)

    @asynccontextmanager
    async def holding(self, stay: Stay, ask: Callable[[float], bool]) -> AsyncIterator[None]:
        """Holds what `ask` asks the queue for, once it is the request's turn. It is given back in any case."""
        stay.check()
        try:
            with _refusals():
                is_placed = ask(self._clock())
            if not is_placed:
                await self._turn(stay)
            yield
        finally:
            self.queue.leave(stay.ticket)
            self._advance()

    async def _turn(self, stay: Stay) -> None:
        loop, ticket, began_s = asyncio.get_running_loop(), stay.ticket, self._clock()
        turn = self._turns[ticket] = loop.create_future()
        timer = None
        if math.isfinite(ticket.deadline_s):
            timer = loop.call_later(ticket.deadline_s - began_s, self._tell, ticket, _late())
        try:
            refusal = await turn
        finally:
            stay.waited_s += self._clock() - began_s
            del self._turns[ticket]
            if timer is not None:
                timer.cancel()
        if refusal is not None:
            raise refusal

    def _advance(self) -> None:
        moves = self.queue.advance(self._clock())
        for ticket in moves.placed:
            self._tell(ticket, None)
        for ticket in moves.late:
            self._tell(ticket, _late())

    def _tell(self, ticket: Ticket, refusal: IsthmusError | None) -> None:
        # Who was told something else in this moment, or has gone, gives back by itself what it got here.
        turn = self._turns.get(ticket)
        if turn is not None and not turn.done():
            turn.set_result(refusal)


class Stay:
    """One request while it is in. `waited_s` is how long it has stood in line."""

    def __init__(self, admission: Admission, ticket: Ticket) -> None:
        self.ticket: Final = ticket
        self.waited_s = 0.0
        self._admission = admission
        self._scope: asyncio.Timeout | None = None
        self._put_out = ""

    @property
    def is_awaiting(self) -> bool:
        """Whether it waits for the engine's next output."""
        return self._scope is not None

    def pulling(self) -> AbstractAsyncContextManager[None]:
        """A place among those who read their windows from a shard. Raises DEADLINE_EXCEEDED, UPSTREAM_UNAVAILABLE."""
        return self._admission.holding(self, lambda _: self._admission.queue.pull(self.ticket))

    def running(self, new_tokens: int, held_tokens: int) -> AbstractAsyncContextManager[None]:
        """A place in the engine's batch, for one that brings `new_tokens` and will take up `held_tokens`.

        Raises OVERLOADED with RetryInfo, DEADLINE_EXCEEDED, UPSTREAM_UNAVAILABLE.
        """
        queue = self._admission.queue
        return self._admission.holding(self, lambda now_s: queue.join(self.ticket, new_tokens, held_tokens, now_s))

    async def outputs(self, outputs: Outputs) -> Outputs:
        """The engine's outputs; UPSTREAM_UNAVAILABLE as soon as the engine is lost."""
        async with aclosing(outputs):
            while (output := await self._next(outputs)) is not None:
                yield output

    def put_out(self, message: str) -> None:
        """Ends its wait for the engine, now or when it comes to that."""
        self._put_out = message
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    def check(self) -> None:
        """Raises UPSTREAM_UNAVAILABLE for one that was put out."""
        if self._put_out:
            raise UpstreamUnavailable(self._put_out)

    async def _next(self, outputs: Outputs) -> EngineOutput | None:
        self.check()
        try:
            async with asyncio.timeout(None) as self._scope:
                return await outputs.__anext__()
        except StopAsyncIteration:
            return None
        except TimeoutError:
            self.check()
            raise
        finally:
            self._scope = None


@contextmanager
def _refusals() -> Iterator[None]:
    """The queue's refusals as errors of the contract."""
    try:
        yield
    except QueueFull as full:
        raise IsthmusError(
            errors_pb2.ERROR_REASON_OVERLOADED, f"{full}; come back later", retry_after_ms=full.retry_ms
        ) from None
    except TooLate as late:
        raise IsthmusError(errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED, str(late)) from None


def _late() -> IsthmusError:
    return IsthmusError(errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED, "its turn did not come before the caller's deadline")
