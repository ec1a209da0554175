"""One client of a load test on a peer: whole conversations over HTTP/1.1. `python -m benchmarks.load_client PLAN`.

As lean as the client of `isthmus bench load`: connections are kept and used again, nothing of an answer but its text
is looked at, and the history is kept encoded.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Final

import msgspec
import uvloop

from benchmarks.stub import MODEL
from services.cli.bench.load_client import speak
from services.cli.bench.load_plan import Share
from services.cli.bench.open_loop import TurnFailedError
from services.cli.bench.text import delta

_TURN_S_MAX: Final = 60.0
_HEAD_BYTES_MAX: Final = 64 << 10
_OK: Final = b"200"


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


@dataclass(slots=True)
class Conversation:
    """What was said, as JSON."""

    said: bytearray = field(default_factory=lambda: bytearray(f'{{"model":"{MODEL}","messages":['.encode()))
    turns: int = 0

    def say(self) -> bytes:
        """The body of the next turn."""
        self._append("user", delta(self.turns))
        self.turns += 1
        return bytes(self.said) + b"]}"

    def hear(self, text: str) -> None:
        """Takes the reply into the history."""
        self._append("assistant", text)

    def _append(self, role: str, text: str) -> None:
        comma = b"," if self.said.endswith(b"}") else b""
        self.said += comma + json.dumps({"role": role, "content": text}).encode()


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class HttpSpeaker:
    """Chat completions at 127.0.0.1."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._idle: list[_Connection] = []

    async def open(self) -> Conversation:
        """A new conversation, of which the peer knows nothing."""
        return Conversation()

    async def close(self, session: Conversation) -> None:
        """Nor does it need to be told of its end."""

    async def turn(self, session: Conversation) -> None:
        """Sends all of it with one more question."""
        try:
            async with asyncio.timeout(_TURN_S_MAX):
                session.hear(await self._asked(session.say()))
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise TurnFailedError(type(error).__name__) from None

    async def _asked(self, body: bytes) -> str:
        connection = self._idle.pop() if self._idle else await self._connected()
        connection.writer.write(self._head + b"%d\r\n\r\n" % len(body) + body)
        head = await connection.reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        size = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        answer = await connection.reader.readexactly(size)
        if lines[0].split()[1] != _OK:
            raise TurnFailedError(f"HTTP {lines[0].split()[1].decode()}")
        self._idle.append(connection)
        return msgspec.json.decode(answer, type=_Completion).choices[0].message.content

    async def _connected(self) -> _Connection:
        return _Connection(*await asyncio.open_connection("127.0.0.1", self._port, limit=_HEAD_BYTES_MAX))


class Errand(msgspec.Struct):
    """What the process is started with."""

    port: int
    key: str
    share: Share


if __name__ == "__main__":
    errand = msgspec.json.decode(sys.argv[1], type=Errand)
    uvloop.run(speak(errand.share, HttpSpeaker(errand.port, errand.key)))
