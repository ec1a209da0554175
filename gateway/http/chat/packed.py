"""Messages as their serialised bytes: read one by one, they take no more than their texts do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from isthmus.session.v1 import message_pb2


class Packed(Sequence[message_pb2.Message]):
    """A sequence of messages, each made anew when it is asked for.

    A message that is held takes some hundred bytes beside its text, and its text several times what it is in UTF-8
    where one character is outside of the first 256.
    """

    def __init__(self, packed: Iterable[bytes]) -> None:
        self._packed = list(packed)

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, place: int) -> message_pb2.Message: ...

    @overload
    def __getitem__(self, place: slice) -> Packed: ...

    def __getitem__(self, place: int | slice) -> message_pb2.Message | Packed:
        if isinstance(place, slice):
            return Packed(self._packed[place])
        return message_pb2.Message.FromString(self._packed[place])

    def __iter__(self) -> Iterator[message_pb2.Message]:
        return map(message_pb2.Message.FromString, self._packed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and self._packed == other._packed

    def __hash__(self) -> int:
        return hash(tuple(self._packed))

    def behind(self, head: message_pb2.Message) -> Packed:
        """The same with a message before them."""
        return Packed([head.SerializeToString(), *self._packed])

    def byte_size(self, place: int) -> int:
        """Its `ByteSize()`, without making it."""
        return len(self._packed[place])
