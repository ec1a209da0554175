"""One call to a replica for a reply, from its pick to its release; and two of them that race for the first text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

import grpc.aio
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2

from gateway.models.replicas import Replica, Replicas
from gateway.pools.outcome import PROVIDER
from gateway.turn.driven import Stop
from gateway.turn.receipt import Leg
from services.errors import IsthmusError, UpstreamUnavailable, from_rpc_error

# In quotes, since grpc's own classes take no parameters when they run.
GenerateCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[inference_service_pb2.GenerateRequest, inference_service_pb2.GenerateResponse]"
)
Response = inference_service_pb2.GenerateResponse


class Attempt:
    """`start` once, then `read` to the end; `close` in any case."""

    def __init__(
        self,
        replica: Replica,
        replicas: Replicas,
        request: inference_service_pb2.GenerateRequest,
        until: float,
        stop: Stop,
    ) -> None:
        self.replica = replica
        self.started = Response.Started()
        # What came first after it; None where the reply ended with that.
        self.first: Response | None = None
        self.leg = Leg(0.0, 0, 0)
        self._replicas = replicas
        self._request = request
        self._until = until
        self._stop = stop
        self._begun_at = 0.0
        self._call: GenerateCall | None = None
        self._is_open = True

    async def start(self) -> None:
        """Hands the window over and waits for the first text. Raises what the replica raises, and as a provider's
        failure that the pool's `first_text_ms_max` has passed.
        """
        seconds_max = self._replicas.pools.get(self.replica.pool).settings.first_text_ms_max / 1000
        try:
            async with asyncio.timeout(seconds_max or None):
                await self._start()
        except TimeoutError:
            error = IsthmusError(
                errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE,
                f"{self.replica.pool} had no text after {seconds_max:g} s",
                metadata={PROVIDER: "timeout"},
            )
            self._replicas.failed(self.replica, error)
            raise error from None

    async def read(self) -> Response | None:
        """The stream's next message, None at its end; the stop's reason once the turn was stopped."""
        self._stop.check()
        call = self._call
        assert call is not None
        try:
            event = await call.read()
        except grpc.aio.AioRpcError as error:
            self._stop.check()
            ours = from_rpc_error(error)
            self._replicas.failed(self.replica, ours)
            raise ours from None
        except asyncio.CancelledError:
            # A stop cancels the call, a caller that has gone cancels this task: the latter has to be let through.
            if not _being_cancelled():
                self._stop.check()
            raise
        if not isinstance(event, Response):
            return None
        self._note(event)
        return event

    def cancel(self) -> None:
        """Ends the replica's work, if it still goes on."""
        if self._call is not None:
            self._call.cancel()

    def close(self, *, has_lost: bool = False) -> None:
        """Ends it, and it no longer counts as load; where another one was faster, its time so far is remembered."""
        self.cancel()
        if self._is_open:
            self._is_open = False
            if has_lost:
                self._replicas.heard(self.replica, time.monotonic() - self._begun_at)
            self._replicas.release(self.replica)

    async def _start(self) -> None:
        self._begun_at = time.monotonic()
        self._replicas.called(self.replica)
        self._call = self.replica.stub.Generate(self._request, timeout=max(0.0, self._until - self._begun_at))
        event = await self.read()
        if event is None or event.WhichOneof("event") != "started":
            raise UpstreamUnavailable("the replica ended its stream before it had the window")
        self.started = event.started
        self.leg = Leg(time.monotonic() - self._begun_at, self._request.ByteSize(), event.ByteSize())
        self.first = await self.read()
        self._replicas.heard(self.replica, time.monotonic() - self._begun_at)

    def _note(self, event: Response) -> None:
        kind = event.WhichOneof("event")
        if kind == "delta" and event.delta.HasField("limits"):
            self._replicas.told(self.replica, event.delta.limits)
        elif kind == "finished":
            finished = event.finished
            self._replicas.finished(
                self.replica, self.started.window_tokens, finished.cached_tokens, finished.output_tokens
            )


async def first_to_answer(first: Attempt, after_s: float, second: Callable[[], Attempt | None]) -> Attempt:
    """The attempt that has text first: `first`, or one that `second` makes where that has none after so long.

    Where one fails the other is waited for; the last error is raised. Whoever is not the answer is closed.
    """
    tasks = {asyncio.create_task(first.start(), name="first attempt"): first}
    winner: Attempt | None = None
    try:
        done, pending = await asyncio.wait(tasks, timeout=after_s)
        if not done:
            hedge = second()
            if hedge is not None:
                tasks[asyncio.create_task(hedge.start(), name="hedge")] = hedge
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failed = next((task for task in done if task.exception() is not None), None)
        if failed is not None and pending:
            await asyncio.wait(pending)
        well = [task for task in tasks if task.done() and task.exception() is None]
        if not well:
            # The last one that was waited for.
            await next(iter(pending or done))
            raise AssertionError("an attempt that failed has an error")
        winner = tasks[well[0]]
        return winner
    finally:
        for task, attempt in tasks.items():
            task.cancel()
            if attempt is not winner:
                attempt.close(has_lost=winner is not None and not task.done())
        await asyncio.gather(*tasks, return_exceptions=True)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
