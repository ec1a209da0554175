"""The load: clients that run turns on their sessions, one after another, and repeat each until it is acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import grpc
from isthmus.session.v1 import message_pb2, session_service_pb2, session_service_pb2_grpc, turn_pb2

from services.cli.chaos.ledger import Acknowledged, Ledger
from services.errors import DETAILS_KEY, IsthmusError, UpstreamUnavailable, from_rpc_error, reason_name

if TYPE_CHECKING:
    from isthmus.session.v1.session_service_pb2_grpc import SessionServiceAsyncStub

# What a client of its own would set: one attempt, and one turn over all its attempts.
ATTEMPT_S_MAX: Final = 20.0
TURN_S_MAX: Final = 30.0
# Between two turns of a session, on average.
_PAUSE_S_MEAN: Final = 0.1
_BACKOFF_S_MIN: Final = 0.02
_BACKOFF_S_MAX: Final = 0.25
_OPTIONS: Final = (
    # Each client with connections of its own, which come back as soon as their gateway does.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn that is to be acknowledged, whatever it takes."""

    session: str
    text: str
    request: session_service_pb2.RunTurnRequest
    begun: float


class Traffic:
    """`start`, then `stop` once. What was acknowledged is in the ledger, as it comes."""

    def __init__(self, gateways: Sequence[str], clients: int, ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._clients = [_Client(gateways) for _ in range(clients)]
        self._seed = seed
        self._stopping = False
        self._talks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Makes the sessions, shared out among the clients, and begins. Raises IsthmusError if one cannot be made."""
        shares = [(self._clients[i % len(self._clients)], session) for i, session in enumerate(self._ledger.sessions)]
        for client, session in shares:
            await client.create(session)
        for number, (client, session) in enumerate(shares):
            random = Random(self._seed + number)  # noqa: S311
            self._talks.append(asyncio.create_task(self._talk(client, session, random), name=session))

    def check(self) -> None:
        """Raises what ended a session's talk before its time: a bug of ours."""
        for talk in self._talks:
            if talk.done():
                talk.result()

    async def stop(self, seconds_max: float) -> None:
        """Lets every turn that is under way come to its end, gives up what has not by then, closes the connections."""
        self._stopping = True
        if self._talks:
            _, late = await asyncio.wait(self._talks, timeout=seconds_max)
            for talk in late:
                talk.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    async def _talk(self, client: _Client, session: str, random: Random) -> None:
        number = 0
        while not self._stopping:
            number += 1
            await self._until_acknowledged(client, _turn(session, number), random)
            await asyncio.sleep(random.expovariate(1 / _PAUSE_S_MEAN))

    async def _until_acknowledged(self, client: _Client, turn: _Turn, random: Random) -> None:
        try:
            done = await self._repeated(client, turn, random)
        except IsthmusError as error:
            self._ledger.give_up(turn.session, turn.text, str(error))
        except asyncio.CancelledError:
            self._ledger.give_up(turn.session, turn.text, None)
            raise
        else:
            told = done.output_text, done.number, turn.begun, time.monotonic(), done.receipt.shard
            self._ledger.acknowledge(Acknowledged(turn.session, turn.text, *told))

    async def _repeated(self, client: _Client, turn: _Turn, random: Random) -> turn_pb2.Turn:
        """The turn once it is done, by whichever gateway. Raises the last IsthmusError after TURN_S_MAX."""
        gateway, failures = random.randrange(client.gateways), 0
        while True:
            try:
                return await client.run(gateway, turn)
            except _Failed as failed:
                self._ledger.met[reason_name(failed.error.reason)] += 1
                failures += 1
                wait_s = max(failed.wait_s, _backoff_s(failures // client.gateways, random))
                if time.monotonic() + wait_s > turn.begun + TURN_S_MAX:
                    raise failed.error from None
            gateway = (gateway + 1) % client.gateways
            await asyncio.sleep(wait_s)


class _Failed(Exception):  # noqa: N818
    """One attempt that came to nothing, and how long its server asked to wait."""

    def __init__(self, error: IsthmusError, wait_s: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


class _Client:
    """One client, with a connection to every gateway."""

    def __init__(self, gateways: Sequence[str]) -> None:
        self._channels = [grpc.aio.insecure_channel(target, options=_OPTIONS) for target in gateways]
        self._stubs: list[SessionServiceAsyncStub] = [
            session_service_pb2_grpc.SessionServiceStub(channel) for channel in self._channels
        ]
        self.gateways = len(gateways)

    async def close(self) -> None:
        """Ends the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def create(self, session: str) -> None:
        """Makes the session, on a mesh that nothing has hit yet. Raises IsthmusError."""
        request = session_service_pb2.CreateSessionRequest(session_id=session)
        try:
            await self._stubs[0].CreateSession(request, timeout=ATTEMPT_S_MAX)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def run(self, gateway: int, turn: _Turn) -> turn_pb2.Turn:
        """One attempt: the turn, done. Raises _Failed."""
        left_s = turn.begun + TURN_S_MAX - time.monotonic()
        done: turn_pb2.Turn | None = None
        try:
            async for event in self._stubs[gateway].RunTurn(turn.request, timeout=min(ATTEMPT_S_MAX, left_s)):
                if event.HasField("done"):
                    done = event.done.turn
        except grpc.aio.AioRpcError as error:
            # What was told is told, even if the gateway dies before it has closed the stream.
            if done is None:
                raise _Failed(from_rpc_error(error), _retry_after_s(error)) from None
        if done is None:
            raise _Failed(UpstreamUnavailable("the stream ended well, yet without `done`"), 0.0)
        return done


def _turn(session: str, number: int) -> _Turn:
    text = f"message {number} of {session}"
    request = session_service_pb2.RunTurnRequest(
        session=f"sessions/{session}",
        request_id=f"{session}-{number}",
        messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text=text)],
    )
    return _Turn(session, text, request, time.monotonic())


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """How long the server asked to wait; nothing where no server of ours has answered: the other gateway may."""
    asked = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
    return (from_rpc_error(error).retry_after_ms or 0) / 1_000 if asked else 0


def _backoff_s(rounds: int, random: Random) -> float:
    """The wait after so many rounds of all gateways: none within the first one, then doubled, with jitter."""
    if not rounds:
        return 0.0
    return random.uniform(0.5, 1.0) * float(min(_BACKOFF_S_MIN * 2**rounds, _BACKOFF_S_MAX))
