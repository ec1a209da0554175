"""What the local engine and its worker process say to each other over a socket pair: msgpack in frames."""

from __future__ import annotations

import socket
import struct
from typing import Final

import msgspec

# Length of the payload that follows, in bytes.
FRAME: Final = struct.Struct(">I")


class Setup(msgspec.Struct, tag=True, frozen=True):
    """The first message: what to load, and how much of the machine it may take. 0 threads: one a core."""

    weights: str
    kv_cache_gib: int
    batch_tokens_max: int
    requests_max: int
    threads_count: int
    end_ids: tuple[int, ...]


class Add(msgspec.Struct, tag=True, frozen=True):
    """A request under a number of the engine's own; `prompt` is its token ids as little-endian int32."""

    number: int
    prompt: bytes
    output_tokens_max: int
    temperature: float
    top_p: float
    seed: int
    # The grammar that the reply keeps to, as a structural tag; empty for none.
    tag: str = ""
    # Before so many, whatever the model would end it with, it goes on.
    output_tokens_min: int = 0


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Nobody waits for this request any more; it may have ended already."""

    number: int


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The worker has loaded the model."""


class Output(msgspec.Struct, tag=True, frozen=True):
    """What one step has made of one request. `finish` or `error` is set on its last one."""

    number: int
    token_ids: tuple[int, ...] = ()
    # A value of isthmus.session.v1.FinishReason.
    finish: int = 0
    error: str = ""
    # Whether the error is of the request itself, so that no other worker would do better.
    is_refused: bool = False


class Stepped(msgspec.Struct, tag=True, frozen=True):
    """All outputs of one step."""

    outputs: tuple[Output, ...]


ToWorker = Setup | Add | Cancel
FromWorker = Ready | Stepped

_encoder: Final = msgspec.msgpack.Encoder()
_to_worker: Final = msgspec.msgpack.Decoder(ToWorker)
from_worker: Final = msgspec.msgpack.Decoder(FromWorker)


def pack(message: ToWorker | FromWorker) -> bytes:
    """The message as one frame."""
    payload = _encoder.encode(message)
    return FRAME.pack(len(payload)) + payload


def receive(connection: socket.socket) -> ToWorker | None:
    """The next message to the worker; None when the engine's side has closed. Blocks."""
    header = _read(connection, FRAME.size)
    payload = _read(connection, FRAME.unpack(header)[0]) if header else b""
    return _to_worker.decode(payload) if payload else None


def _read(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            return b""
        received += piece
    return bytes(received)
