"""A reply that nobody may read yet, in the pieces that it will go out in. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from isthmus.context.v1 import context_service_pb2

Piece = context_service_pb2.OutputPiece
# Deltas are put together to pieces of about so many bytes.
_PIECE_BYTES: Final = 8_192


class Held:
    """`put` what comes; `pieces` has it in order. `size` is what it takes, in bytes as they are sent."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._last_size = 0
        self.size = 0

    @classmethod
    def of(cls, text: str) -> Held:
        """A text without its tokens."""
        held = cls()
        for begin in range(0, len(text), _PIECE_BYTES):
            held.put(Piece(text=text[begin : begin + _PIECE_BYTES]))
        return held

    @property
    def pieces(self) -> Sequence[Piece]:
        """All of it."""
        return self._pieces

    def put(self, piece: Piece) -> None:
        """More of the reply."""
        size = piece.ByteSize()
        self.size += size
        last = self._pieces[-1] if self._pieces else None
        if last is None or last.tokenizer != piece.tokenizer or self._last_size + size > _PIECE_BYTES:
            self._pieces.append(piece)
            self._last_size = size
            return
        last.text += piece.text
        last.token_ids.extend(piece.token_ids)
        last.logprobs.extend(piece.logprobs)
        self._last_size += size
