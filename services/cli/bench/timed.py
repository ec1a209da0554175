"""Turns with a stopwatch: when the first text came, and what the receipt says of the prompt and of the way it took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from isthmus.session.v1 import message_pb2, session_pb2, session_service_pb2, turn_pb2

from services.cli.bench.client import COMMIT, BenchClient

_TURN_S_MAX: Final = 900.0
_CALL_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class TimedTurn:
    """One turn as its caller saw it; tokens are the engine's own count, `cached_tokens` None where it has none.

    `legs` are milliseconds by hop and operation, such as `inference.engine generate`.
    """

    ttft_ms: float
    wall_ms: float
    epoch: int
    replica: str
    window_tokens: int
    cached_tokens: int | None
    resident: bool
    legs: Mapping[str, float]
    missed_ms: float = 0.0


class Stopwatch:
    """Runs from when it is made; `heard` notes the first text."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first_s: float | None = None

    def heard(self, text: str) -> None:
        """A piece of the reply has come."""
        if text and self._first_s is None:
            self._first_s = time.perf_counter() - self._started

    @property
    def wall_ms(self) -> float:
        """Milliseconds until now."""
        return (time.perf_counter() - self._started) * 1_000

    @property
    def ttft_ms(self) -> float:
        """Milliseconds until the first text, or until now where there was none."""
        return self.wall_ms if self._first_s is None else self._first_s * 1_000


class TimedClient(BenchClient):
    """A client of the gateway that looks at its clock. Errors are grpc's own."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._sessions: list[str] = []

    async def open(self, session: str, window_tokens_max: int) -> None:
        """Makes the session; 0 leaves its window to the model."""
        own = session_pb2.Session(window_tokens_max=window_tokens_max)
        request = session_service_pb2.CreateSessionRequest(session_id=session, session=own)
        await self._stub.CreateSession(request, timeout=_CALL_S_MAX)
        self._sessions.append(session)

    async def fork(self, session: str, fork: str) -> None:
        """Makes a session that shares the other's past."""
        request = session_service_pb2.ForkSessionRequest(name=f"sessions/{session}", session_id=fork)
        await self._stub.ForkSession(request, timeout=_CALL_S_MAX)
        self._sessions.append(fork)

    async def clear(self) -> None:
        """Erases what `open` and `fork` have made."""
        while self._sessions:
            await self.delete(self._sessions.pop())

    async def timed(self, session: str, text: str, params: message_pb2.SamplingParams) -> TimedTurn:
        """Runs a turn. The clock starts before its request is made and stops when its stream has ended."""
        watch = Stopwatch()
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=text)
        request = session_service_pb2.RunTurnRequest(session=f"sessions/{session}", messages=[message], params=params)
        receipt: turn_pb2.Receipt | None = None
        commit: list[turn_pb2.Hop] = []
        async for response in self._stub.RunTurn(request, timeout=_TURN_S_MAX):
            watch.heard(response.delta.text)
            if response.hop.operation == COMMIT:
                commit.append(response.hop)
            elif response.HasField("done"):
                receipt = response.done.turn.receipt
        if receipt is None:
            raise RuntimeError(f"sessions/{session}: the turn's stream ended without a reply that is done")
        return _timed(watch, receipt, legs([*receipt.hops, *commit]))


def legs(hops: Iterable[turn_pb2.Hop]) -> dict[str, float]:
    """Milliseconds by hop and operation."""
    found: dict[str, float] = {}
    for hop in hops:
        name = f"{hop.name} {hop.operation}"
        found[name] = found.get(name, 0.0) + hop.duration_ms
    return found


def greedy(output_tokens_max: int, **more: Any) -> message_pb2.SamplingParams:
    """Sampling that gives the same reply to the same window."""
    return message_pb2.SamplingParams(max_output_tokens=output_tokens_max, temperature=0.0, **more)


def _timed(watch: Stopwatch, receipt: turn_pb2.Receipt, by_leg: Mapping[str, float]) -> TimedTurn:
    tokens = receipt.tokens
    return TimedTurn(
        ttft_ms=watch.ttft_ms,
        wall_ms=watch.wall_ms,
        epoch=receipt.window.epoch,
        replica=receipt.replica,
        window_tokens=tokens.window_tokens,
        cached_tokens=tokens.cached_tokens if tokens.HasField("cached_tokens") else None,
        resident=tokens.resident,
        legs=by_leg,
        missed_ms=receipt.placement.missed_ms,
    )
