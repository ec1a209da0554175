"""Which turn goes next: start-time fair queueing over tenants (Goyal, Vin and Cheng, SIGCOMM 1996). Pure.

A turn weighs its estimated tokens. A tenant's first turn in line is tagged with the later of the line's virtual time
and the tag where its last turn ended, each next one with where the one before it ends. The lowest tag goes next, and is
the virtual time then. So of two tenants that both wait, neither is served more tokens than the other but for one turn
of each, whoever sends more; and one that was away comes in at the present, with nothing saved up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from services.config import LimitsSettings


class LineFull(Exception):  # noqa: N818
    """A bound of the line is reached."""


@dataclass(slots=True, eq=False)
class Turn:
    """A turn in line, or under way since `placed_s`."""

    tenant: str
    tokens: int
    number: int
    placed_s: float | None = None
    has_left: bool = False


@dataclass(slots=True)
class _Waiting:
    """A tenant's turns in line, in order; `start` is the tag of the first."""

    start: int
    turns: deque[Turn] = field(default_factory=deque)
    tokens: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Lower goes first."""
        return self.start, self.turns[0].number

    def tags(self) -> Iterator[int]:
        """Those of all its turns."""
        tag = self.start
        for turn in self.turns:
            yield tag
            tag += turn.tokens


class FairLine:
    """So many places, and those who wait for one, within the bounds of `gateway.limits`."""

    def __init__(self, places: int, settings: LimitsSettings) -> None:
        self.places = places
        self._settings = settings
        self._virtual = 0
        self._waiting: dict[str, _Waiting] = {}
        # Where the last turn of each tenant ended, if that is ahead of the virtual time.
        self._ends: dict[str, int] = {}
        self._ended: list[tuple[int, str]] = []
        self._number = 0
        self.placed = 0
        self.waiting = 0
        self.waiting_tokens = 0

    @property
    def is_free(self) -> bool:
        """Whether the next one need not wait."""
        return self.placed < self.places and not self.waiting

    def check(self, tenant: str, tokens: int) -> None:
        """Raises LineFull where such a turn could neither go nor wait.

        One that has more tokens than may wait is let in where nobody, or nobody of its tenant, waits.
        """
        if self.is_free:
            return
        bounds, mine = self._settings, self._waiting.get(tenant, _Waiting(0))
        if self.waiting >= bounds.queue_turns_count_max:
            raise LineFull(f"{self.waiting} turns wait, which is the bound")
        if len(mine.turns) >= bounds.queue_tenant_turns_count_max:
            raise LineFull(f"{len(mine.turns)} turns of this tenant wait, which is the bound")
        if self.waiting and self.waiting_tokens + tokens > bounds.queue_tokens_max:
            raise LineFull(f"turns of {self.waiting_tokens} tokens wait, these {tokens} are over the bound")
        if mine.turns and mine.tokens + tokens > bounds.queue_tenant_tokens_max:
            raise LineFull(f"turns of {mine.tokens} tokens of this tenant wait, these {tokens} are over the bound")

    def ahead_of(self, tenant: str) -> int:
        """How many would go before the tenant's next turn, if nobody came any more."""
        mine = self._waiting.get(tenant)
        start = self._start(tenant) if mine is None else mine.start + mine.tokens
        return sum(tag <= start for each in self._waiting.values() for tag in each.tags())

    def ask(self, tenant: str, tokens: int, now_s: float) -> Turn:
        """A turn with its place, or in line for one. Raises LineFull."""
        self.check(tenant, tokens)
        self._number += 1
        turn = Turn(tenant, tokens, self._number)
        if self.is_free:
            self._place(turn, self._start(tenant), now_s)
            return turn
        mine = self._waiting.setdefault(tenant, _Waiting(self._start(tenant)))
        mine.turns.append(turn)
        self._count(mine, turn, 1)
        return turn

    def leave(self, turn: Turn, now_s: float) -> list[Turn]:
        """Takes a turn out of its place, or of the line: those that have theirs by that. A second time does nothing."""
        if turn.has_left:
            return []
        turn.has_left = True
        if turn.placed_s is None:
            mine = self._waiting[turn.tenant]
            mine.turns.remove(turn)
            self._count(mine, turn, -1)
        else:
            self.placed -= 1
        return self._advance(now_s)

    def _advance(self, now_s: float) -> list[Turn]:
        placed = []
        while self._waiting and self.placed < self.places:
            first = min(self._waiting.values(), key=lambda each: each.rank)
            turn, start = first.turns.popleft(), first.start
            first.start += turn.tokens
            self._count(first, turn, -1)
            self._place(turn, start, now_s)
            placed.append(turn)
        if not self.placed and not self.waiting:
            # Nobody is to be compared with anybody.
            self._virtual = 0
            self._ends.clear()
            self._ended.clear()
        return placed

    def _start(self, tenant: str) -> int:
        return max(self._virtual, self._ends.get(tenant, 0))

    def _place(self, turn: Turn, start: int, now_s: float) -> None:
        turn.placed_s = now_s
        self.placed += 1
        self._virtual = max(self._virtual, start)
        end = self._ends[turn.tenant] = start + turn.tokens
        heappush(self._ended, (end, turn.tenant))
        # Who ended in the past starts in the present.
        while self._ended and self._ended[0][0] <= self._virtual:
            end, tenant = heappop(self._ended)
            if self._ends.get(tenant) == end:
                del self._ends[tenant]

    def _count(self, mine: _Waiting, turn: Turn, by: int) -> None:
        mine.tokens += by * turn.tokens
        self.waiting += by
        self.waiting_tokens += by * turn.tokens
        if not mine.turns:
            del self._waiting[turn.tenant]
