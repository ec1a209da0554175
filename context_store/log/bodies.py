"""The texts of fragments: read from Valkey in pages; what was written or read last is kept in a bounded cache."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2

from context_store.log.fragments import CorruptBodyError, unpack_text
from context_store.log.keys import Keys
from context_store.log.reads import LogReads
from context_store.log.stored import Meter, Row
from services.errors import IsthmusError

_ENTRY_BYTES: Final = 768
_GAP_MAX: Final = 16
# Session, incarnation and sequence number.
_Place: TypeAlias = tuple[Keys, bytes, int]


class Bodies:
    """Whole fragments by session and sequence number. Fragments are immutable; the cache holds at most `bytes_max`.

    Least recently used out first: a window that is read again soon, by another replica or after a retry, costs neither
    Valkey nor the unpacking.
    """

    def __init__(self, log: LogReads, bytes_max: int) -> None:
        self._log = log
        self._bytes_max = bytes_max
        self._kept: OrderedDict[_Place, fragment_pb2.Fragment] = OrderedDict()
        # What is kept of each session: one that is erased must not cost a look at all the others.
        self._places: defaultdict[Keys, set[_Place]] = defaultdict(set)
        self.memory_bytes = 0
        self._forgotten = 0

    def keep(self, keys: Keys, incarnation: bytes, fragments: Iterable[fragment_pb2.Fragment]) -> None:
        """Keeps fragments that are likely to be asked for soon."""
        for fragment in fragments:
            place = (keys, incarnation, fragment.sequence)
            if place not in self._kept:
                self.memory_bytes += _weight(fragment)
                self._places[keys].add(place)
            self._kept[place] = fragment
            self._kept.move_to_end(place)
        while self.memory_bytes > self._bytes_max and self._kept:
            self._let_go(next(iter(self._kept)))

    def forget(self, keys: Keys, incarnation: bytes, sequence: int) -> None:
        """Lets go of a fragment that is being erased, and of what reads under way may have of it."""
        self._forgotten += 1
        place = (keys, incarnation, sequence)
        if place in self._kept:
            self._let_go(place)

    def drop(self, keys: Keys) -> tuple[int, int]:
        """Lets go of all fragments of a session; how many there were, and about their bytes."""
        self._forgotten += 1
        sizes = [self._let_go(place) for place in tuple(self._places.get(keys, ()))]
        return len(sizes), sum(sizes)

    async def get(
        self,
        keys: Keys,
        incarnation: bytes,
        sequences: list[int],
        meter: Meter | None = None,
        *,
        is_window: bool = False,
    ) -> list[fragment_pb2.Fragment]:
        """The fragments of ascending sequence numbers with their texts, without those that are not there any more.

        What is not kept is read, neighbours together; the caller bounds how many there are. Those of a window are kept.
        """
        forgotten = self._forgotten
        found = {one: self._kept.get((keys, incarnation, one)) for one in sequences}
        for run in _runs([one for one, fragment in found.items() if fragment is None]):
            for row in await self._log.rows(keys, run[0], run[-1], run[-1] - run[0] + 1, with_bodies=True, meter=meter):
                if row.sequence in found:
                    found[row.sequence] = _fragment(keys.session, row)
        whole = [fragment for fragment in found.values() if fragment is not None]
        if is_window and forgotten == self._forgotten:
            self.keep(keys, incarnation, whole)
        return whole

    def _let_go(self, place: _Place) -> int:
        """Its bytes."""
        size = _weight(self._kept.pop(place))
        self.memory_bytes -= size
        places = self._places[place[0]]
        places.discard(place)
        if not places:
            del self._places[place[0]]
        return size


def _runs(sequences: list[int]) -> Iterator[list[int]]:
    """Ascending numbers in groups without wide gaps: reading through a narrow one is cheaper than another read."""
    run: list[int] = []
    for sequence in sequences:
        if run and sequence - run[-1] > _GAP_MAX:
            yield run
            run = []
        run.append(sequence)
    if run:
        yield run


def _fragment(session: str, row: Row) -> fragment_pb2.Fragment:
    """The whole fragment of a log entry; its tokens are the history's to say. Raises CORRUPT."""
    fragment = fragment_pb2.Fragment.FromString(row.header)
    fragment.name = f"sessions/{session}/fragments/{row.sequence}"
    fragment.sequence = row.sequence
    try:
        fragment.text = unpack_text(row.body)
    except CorruptBodyError as error:
        raise IsthmusError(
            errors_pb2.ERROR_REASON_CORRUPT, f"{fragment.name}: its stored body cannot be read back: {error}"
        ) from error
    return fragment


def _weight(fragment: fragment_pb2.Fragment) -> int:
    return len(fragment.text) + _ENTRY_BYTES
