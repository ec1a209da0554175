"""What the planner knows of a session's log: one row of a few dozen bytes a fragment, and no text. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from context_store.log.fragments import estimate_tokens
from services.digest import DIGEST_BYTES, EMPTY

_VOID = 1
_PINNED = 2
_EXACT = 4

ROW_BYTES = DIGEST_BYTES + 4 + 4 + 4 + 1


@dataclass(slots=True)
class Tally:
    """A sum of tokens in two parts: counted by the tokenizer, and estimated from the texts' lengths."""

    exact: int = 0
    estimated: int = 0

    def add(self, tokens: int, is_exact: bool) -> None:
        if is_exact:
            self.exact += tokens
        else:
            self.estimated += tokens

    def tokens(self, scale: float) -> int:
        """The whole; estimates are multiplied by the session's measured `scale`."""
        return self.exact + math.ceil(self.estimated * scale)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.exact + other.exact, self.estimated + other.estimated)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.exact - other.exact, self.estimated - other.estimated)


class History:
    """The log's rows by sequence number, from 1 on without gaps: digest, bytes, tokens, turn and flags.

    Void are the messages of turns that came to nothing and fragments that were erased: they are in no window.
    """

    def __init__(self) -> None:
        self._digests = bytearray()
        self._sizes = array("i")
        self._tokens = array("i")
        self._turns = array("i")
        self._flags = bytearray()
        self.text_bytes = 0
        self.tally = Tally()

    @property
    def revision(self) -> int:
        """The last sequence number, 0 while empty."""
        return len(self._flags)

    @property
    def memory_bytes(self) -> int:
        return len(self._flags) * ROW_BYTES

    def append(self, digest: bytes, size: int, turn: int = 0, pinned: bool = False) -> int:
        """Adds the next fragment and returns its sequence number."""
        self._digests += digest
        self._sizes.append(size)
        self._tokens.append(estimate_tokens(size))
        self._turns.append(turn)
        self._flags.append(_PINNED if pinned else 0)
        self.text_bytes += size
        self.tally.add(self._tokens[-1], is_exact=False)
        return self.revision

    def append_erased(self) -> int:
        """Adds the row of a fragment that is gone, void; what size it had is told by `erase`."""
        sequence = self.append(EMPTY, 0)
        self.erase(sequence, 0)
        return sequence

    def erase(self, sequence: int, size: int | None = None) -> None:
        """Forgets a fragment's content; its row stays, void.

        Its size stays too, for the bounds of segments, unless it was void before; `size` says so where it is known.
        """
        row = sequence - 1
        if size is None:
            size = 0 if self._flags[row] & _VOID else self._sizes[row]
        if not self.is_erased(sequence):
            self.text_bytes -= self._sizes[row]
        self._remove_tokens(row)
        self._tokens[row] = 0
        self._sizes[row] = size
        self._digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES] = EMPTY
        self._flags[row] = _VOID | _EXACT

    def void_turn(self, turn: int, first: int, last: int) -> None:
        """Takes the fragments of a turn out of every window; they lie between `first` and `last`."""
        for row in range(first - 1, min(last, self.revision)):
            if self._turns[row] == turn:
                self._flags[row] |= _VOID

    def void_turns(self, turns: set[int]) -> None:
        """The same for whole turns, wherever their fragments are."""
        if turns:
            for row, turn in enumerate(self._turns):
                if turn in turns:
                    self._flags[row] |= _VOID

    def set_count(self, sequence: int, tokens: int) -> None:
        """Replaces the estimate by the tokenizer's count; nothing for an erased fragment."""
        if self.is_erased(sequence):
            return
        row = sequence - 1
        self._remove_tokens(row)
        self._tokens[row] = tokens
        self._flags[row] |= _EXACT
        self.tally.add(tokens, is_exact=True)

    def forget_counts(self) -> None:
        """Back to estimates everywhere, for another tokenizer."""
        for row in range(self.revision):
            if self._flags[row] & _EXACT and self._tokens[row]:
                self._tokens[row] = estimate_tokens(self._sizes[row])
                self._flags[row] &= ~_EXACT
        self.tally = self.sum_of(iter(range(1, self.revision + 1)))

    def _remove_tokens(self, row: int) -> None:
        self.tally.add(-self._tokens[row], bool(self._flags[row] & _EXACT))

    def digest(self, sequence: int) -> bytes:
        row = sequence - 1
        return bytes(self._digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES])

    def size(self, sequence: int) -> int:
        """UTF-8 bytes of the text, also of one that was erased since."""
        return self._sizes[sequence - 1]

    def turn(self, sequence: int) -> int:
        return self._turns[sequence - 1]

    def tokens(self, sequence: int) -> int:
        return self._tokens[sequence - 1]

    def is_exact(self, sequence: int) -> bool:
        return bool(self._flags[sequence - 1] & _EXACT)

    def is_void(self, sequence: int) -> bool:
        return bool(self._flags[sequence - 1] & _VOID)

    def is_erased(self, sequence: int) -> bool:
        return self.digest(sequence) == EMPTY

    def is_pinned(self, sequence: int) -> bool:
        return bool(self._flags[sequence - 1] & _PINNED)

    def cost(self, sequence: int) -> Tally:
        tokens = self.tokens(sequence)
        return Tally(tokens, 0) if self.is_exact(sequence) else Tally(0, tokens)

    def sum_of(self, sequences: Iterator[int]) -> Tally:
        total = Tally()
        for sequence in sequences:
            total.add(self.tokens(sequence), self.is_exact(sequence))
        return total

    def live(self, first: int, last: int) -> Iterator[int]:
        """Sequence numbers from `first` to `last` of fragments that are not void."""
        flags = self._flags
        for row in range(max(first, 1) - 1, min(last, len(flags))):
            if not flags[row] & _VOID:
                yield row + 1

    def live_backwards(self, last: int, first: int = 1) -> Iterator[int]:
        flags = self._flags
        for row in range(min(last, len(flags)) - 1, max(first, 1) - 2, -1):
            if not flags[row] & _VOID:
                yield row + 1
