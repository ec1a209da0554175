"""Large replies: their texts go to one object, and the log's entries say where in it each one lies.

An entry's body is then a pointer in place of a zstd frame. An object is its turn's: while the turn is open it may be
committed, once the turn is closed the log says for good which parts of it anybody can read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from isthmus.session.v1 import turn_pb2

from context_store.log.keys import Keys
from context_store.log.reads import LogReads
from context_store.log.stored import Entry, Row
from context_store.tiering.indexes import Place
from context_store.tiering.object_book import ObjectBook, spill_name
from context_store.tiering.objects import Objects
from context_store.turn import turns
from services.config import TieringSettings
from services.errors import IsthmusError, NotFound

# No zstd frame begins so.
_MARK: Final = b"\0spill"
_TURN: Final = re.compile(r"-t([0-9]+)-[0-9a-f]+\.bodies$")
# Entries that are looked at together.
_PAGE_COUNT: Final = 256


class BucketAwayError(Exception):
    """The bucket did not take a reply's texts in time; the janitor deletes what may come to be there yet."""


class Pointer(msgspec.Struct, frozen=True, array_like=True):
    """Where a body lies."""

    name: str
    offset: int
    length: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Pointer)


@dataclass(frozen=True, slots=True)
class Spilled:
    """Entries whose bodies lie in an object that is noted at `place`."""

    entries: list[Entry]
    place: Place


def point(name: str, entries: Iterable[Entry]) -> list[Entry]:
    """The entries with pointers into an object that holds their bodies one after the other. Pure."""
    pointed, offset = [], 0
    for entry in entries:
        body = _MARK + _encoder.encode(Pointer(name, offset, len(entry.body)))
        pointed.append(replace(entry, body=body))
        offset += len(entry.body)
    return pointed


def pointer_of(row: Row) -> Pointer | None:
    """Where a row's body lies; None for one that has it. Pure."""
    return _decoder.decode(row.body[len(_MARK) :]) if row.body.startswith(_MARK) else None


async def filled(objects: Objects, rows: Sequence[Row]) -> list[Row]:
    """The rows with their bodies, those of one object read together. Raises CORRUPT where the object is gone."""
    pointers = {row.sequence: pointer for row in rows if (pointer := pointer_of(row))}
    bodies: dict[int, bytes] = {}
    for name in {pointer.name for pointer in pointers.values()}:
        some = {sequence: pointer for sequence, pointer in pointers.items() if pointer.name == name}
        spans = [(pointer.offset, pointer.offset + pointer.length) for pointer in some.values()]
        bodies.update(zip(some, await objects.ranges(name, spans), strict=True))
    return [replace(row, body=bodies.get(row.sequence, row.body)) for row in rows]


class Spill:
    """Writes the objects of large replies, and takes from them what the log has no more."""

    def __init__(self, log: LogReads, book: ObjectBook, objects: Objects, settings: TieringSettings) -> None:
        self._log = log
        self._book = book
        self._objects = objects
        self._settings = settings

    async def write(
        self, keys: Keys, incarnation: bytes, version: bytes, turn: int, entries: Sequence[Entry]
    ) -> Spilled | None:
        """Puts the bodies of a reply into an object; None when the session has changed meanwhile.

        Raises BucketAwayError when that takes longer than `tiering.spill_ms_max`, or cannot be done.
        """
        name = spill_name(keys, incarnation, turn)
        place = await self._book.note(keys, version, name)
        if place is None:
            return None
        try:
            async with asyncio.timeout(self._settings.spill_ms_max / 1000):
                await self._objects.put(name, _pieces(entry.body for entry in entries))
        except TimeoutError:
            raise BucketAwayError(f"object {name} not written in {self._settings.spill_ms_max} ms") from None
        except IsthmusError as error:
            raise BucketAwayError(error.message) from error
        return Spilled(point(name, entries), place)

    def is_large(self, size: int) -> bool:
        """Whether a reply of so many bytes goes to an object."""
        bytes_min = self._settings.spill_bytes_min
        return self._settings.enabled and bool(bytes_min) and size >= bytes_min

    async def keep(self, spilled: Spilled) -> None:
        """The reply is committed."""
        await self._book.keep(spilled.place)

    async def note_erasure(self, keys: Keys, sequence: int) -> Place | None:
        """Has the janitor look at the object, if any, that has the text of a fragment which is about to be erased."""
        for row in await self._log.stored_rows(keys, sequence, sequence, 1, with_bodies=True):
            pointer = pointer_of(row)
            if pointer and pointer.name.startswith(f"sessions/{keys.member}/"):
                return await self._book.note_due(keys, pointer.name)
        return None

    async def settle(self, keys: Keys, place: Place) -> bool:
        """Deletes an object that no entry points to, or takes from it what none does. False while its turn is open."""
        try:
            turn = await self._turn(keys, place.member)
            if turn.state == turns.OPEN:
                return False
            live = await self._live(keys, turn, place.member)
            while live:
                await self._objects.put(place.member, self._without_gaps(place.member, live))
                again = await self._live(keys, turn, place.member)
                if again == live:
                    await self._book.keep(place)
                    return True
                live = again
        except NotFound:
            pass
        await self._book.discard(keys, place)
        return True

    async def _turn(self, keys: Keys, name: str) -> turn_pb2.Turn:
        match = _TURN.search(name)
        stored = (await self._log.turn_state(keys, int(match[1]))).stored if match else b""
        return turn_pb2.Turn.FromString(stored)

    async def _live(self, keys: Keys, turn: turn_pb2.Turn, name: str) -> list[tuple[int, int]]:
        """The spans of an object that entries of its turn point to."""
        spans = []
        last = turn.last_output_sequence
        for first in range(turn.first_output_sequence, last + 1 if last else 0, _PAGE_COUNT):
            rows = await self._log.stored_rows(
                keys, first, min(last, first + _PAGE_COUNT - 1), _PAGE_COUNT, with_bodies=True
            )
            pointers = [pointer for row in rows if (pointer := pointer_of(row)) and pointer.name == name]
            spans += [(pointer.offset, pointer.offset + pointer.length) for pointer in pointers]
        return spans

    async def _without_gaps(self, name: str, live: list[tuple[int, int]]) -> AsyncIterator[bytes]:
        """An object's bytes, with nothing but zeros where nobody points to. A reply is 4 MiB at most."""
        end = 0
        for span, body in zip(live, await self._objects.ranges(name, live), strict=True):
            yield bytes(span[0] - end)
            yield body
            end = span[1]


async def _pieces(bodies: Iterable[bytes]) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body
