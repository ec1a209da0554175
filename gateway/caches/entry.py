"""A cached answer as it is kept. Pure."""

from __future__ import annotations

from typing import Final

import msgspec


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an answer without its text. `vector` is little-endian float16, empty where there is none."""

    id: str
    source_turn: str
    create_ms: int
    question: str = ""
    embedder: str = ""
    vector: bytes = b""

    def is_over(self, now_ms: int, ttl_ms: int) -> bool:
        """Whether it has been kept for as long as it may be."""
        return now_ms - self.create_ms >= ttl_ms


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """For Valkey."""
    return _ENCODER.encode(entry)


def decode(stored: bytes) -> Entry | None:
    """None for what a later release wrote in another way: it is as good as not there."""
    try:
        return _DECODER.decode(stored)
    except msgspec.MsgspecError:
        return None
