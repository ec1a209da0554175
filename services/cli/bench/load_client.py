"""One client of `isthmus bench load`, a process of its own: `python -m services.cli.bench.load_client PLAN`.

It shares the machine with the mesh, so it does no more than it must: one connection, and of the answers only the last
is decoded. Lines of JSON on stdout say what it is at; it starts when a line comes on stdin.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
from typing import Any, Final

import grpc
import msgspec
import uvloop
from isthmus.session.v1 import message_pb2, session_service_pb2, turn_pb2

from services.cli.bench.load_plan import Share
from services.cli.bench.open_loop import OpenLoop, Speaker, TurnFailedError, told
from services.cli.bench.text import delta
from services.errors import from_rpc_error, reason_name

_SERVICE: Final = "/isthmus.session.v1.SessionService/"
_TURN_S_MAX: Final = 60.0
_CALL_S_MAX: Final = 30.0
_TELL_S: Final = 0.5


class GrpcSpeaker:
    """Turns over one gRPC connection; a session is its id."""

    def __init__(self, target: str, name: str) -> None:
        # Connections to the same target would be one.
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._turns: Any = self._channel.unary_stream(f"{_SERVICE}RunTurn")
        self._creates: Any = self._channel.unary_unary(f"{_SERVICE}CreateSession")
        self._deletes: Any = self._channel.unary_unary(f"{_SERVICE}DeleteSession")
        self._ids = (f"{name}-{number}" for number in itertools.count())
        self._numbers = itertools.count()

    async def aclose(self) -> None:
        """Hangs up."""
        await self._channel.close()

    async def open(self) -> str:
        """Makes a session."""
        session = next(self._ids)
        request = session_service_pb2.CreateSessionRequest(session_id=session)
        await self._call(self._creates, request.SerializeToString())
        return session

    async def turn(self, session: str) -> None:
        """Runs a turn."""
        message = message_pb2.Message(role=message_pb2.ROLE_USER, text=delta(next(self._numbers)))
        request = session_service_pb2.RunTurnRequest(
            session=f"sessions/{session}",
            messages=[message],
            hop_detail=session_service_pb2.RunTurnRequest.HOP_DETAIL_RECEIPT,
        )
        last = b""
        try:
            async for response in self._turns(request.SerializeToString(), timeout=_TURN_S_MAX):
                last = response
        except grpc.aio.AioRpcError as error:
            raise TurnFailedError(_reason(error)) from None
        if session_service_pb2.RunTurnResponse.FromString(last).done.turn.state != turn_pb2.Turn.STATE_DONE:
            raise TurnFailedError("NOT_DONE")

    async def close(self, session: str) -> None:
        """Erases the session."""
        request = session_service_pb2.DeleteSessionRequest(name=f"sessions/{session}")
        await self._call(self._deletes, request.SerializeToString())

    async def _call(self, method: Any, request: bytes) -> None:
        try:
            await method(request, timeout=_CALL_S_MAX)
        except grpc.aio.AioRpcError as error:
            raise TurnFailedError(_reason(error)) from None


async def speak(share: Share, speaker: Speaker[Any]) -> None:
    """The share of the load, told on stdout; the sessions are gone afterwards."""
    loop = OpenLoop(share, speaker)
    await loop.prepare()
    # What is there by now stays; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    _tell({"ready": True})
    await asyncio.to_thread(sys.stdin.readline)
    telling = asyncio.create_task(_tell_done(loop))
    try:
        outcome = await loop.run()
    finally:
        telling.cancel()
    _tell({"figures": told(outcome)})
    await loop.clear()


async def _tell_done(loop: OpenLoop[Any]) -> None:
    while True:
        _tell({"done": loop.done})
        await asyncio.sleep(_TELL_S)


def _tell(line: object) -> None:
    print(msgspec.json.encode(line).decode(), flush=True)


def _reason(error: grpc.aio.AioRpcError) -> str:
    return reason_name(from_rpc_error(error).reason)


class Errand(msgspec.Struct):
    """What the process is started with."""

    target: str
    share: Share


async def _main(errand: Errand) -> None:
    speaker = GrpcSpeaker(errand.target, f"load-{os.getpid()}")
    try:
        await speak(errand.share, speaker)
    finally:
        await speaker.aclose()


if __name__ == "__main__":
    uvloop.run(_main(msgspec.json.decode(sys.argv[1], type=Errand)))
