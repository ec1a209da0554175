"""Which sessions stay open in the engine between their turns, and who leaves first.

A resident needs no prefix to be sent, hashed or looked up, but it holds its keys and values and a place in the engine
for as long as it is open, and the engine takes neither from it. So residents live within budgets of their own, never
count on room that a request could need, and those that are parked, open between two turns, leave as soon as the
engine would be full. All rules are in this file; it does no I/O, and the clock is passed in, in seconds.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# Sessions that are remembered as seen, for each place that a resident could have.
_SEEN_PER_PLACE: Final = 64


class Place(enum.Enum):
    """Where a request is served."""

    ALONE = enum.auto()  # as a request of its own, of which nothing stays
    OPENED = enum.auto()  # in a session that is opened with the whole prompt, and stays
    RESUMED = enum.auto()  # in the open session, which is sent what it lacks


@dataclass(frozen=True, slots=True)
class Bounds:
    """What residents may take, and what there is.

    `tokens_max` of `capacity_tokens` are for residents, `count_max` of `slots_count` places. Tokens are held in blocks
    of `block_tokens`. A window below `tokens_min` is not worth a resident.
    """

    count_max: int
    tokens_max: int
    tokens_min: int
    idle_s: float
    slots_count: int
    capacity_tokens: int
    block_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `lasting` says whether an open session may serve it, `continues` whether what is held begins it."""

    session: str
    prompt_tokens: int
    output_tokens_max: int
    lasting: bool = True
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A request that has its place; `tokens` are what it may come to hold. The `leaving` sessions must be closed."""

    session: str
    place: Place
    tokens: int
    leaving: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Parked:
    tokens: int
    since_s: float


class Residents:
    """The open sessions of one engine, and the requests in it.

    Every request goes through `begin` and `end`. Of each resident it is known what it holds, of each request under way
    what it may come to hold; the sums of these are what the bounds are about.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds: Final = bounds
        # Idle longest first.
        self._parked: OrderedDict[str, _Parked] = OrderedDict()
        # Residents in a turn, and the tokens set aside for it.
        self._busy: dict[str, int] = {}
        self._forgotten: set[str] = set()
        self._alone_count = 0
        self._alone_tokens = 0
        # When a session was seen last; not seen for longest first.
        self._seen: OrderedDict[str, float] = OrderedDict()

    @property
    def count(self) -> int:
        """Sessions that are open."""
        return len(self._parked) + len(self._busy)

    @property
    def tokens(self) -> int:
        """Tokens that open sessions hold, or may come to hold in the turn that they are in."""
        return sum(each.tokens for each in self._parked.values()) + sum(self._busy.values())

    @property
    def parked(self) -> tuple[str, ...]:
        """The open sessions without a turn, idle longest first."""
        return tuple(self._parked)

    def begin(self, ask: Ask, now_s: float) -> Turn:
        """Finds the request its place, and those who leave for it."""
        tokens = self._whole_blocks(ask.prompt_tokens + ask.output_tokens_max)
        hot = self._see(ask.session, now_s)
        leaving: list[str] = []
        place = Place.ALONE
        if ask.session in self._parked:
            if ask.continues and ask.lasting and self._may_stay(tokens):
                place = Place.RESUMED
                del self._parked[ask.session]
            elif not ask.continues or ask.lasting:
                # Its window has begun anew, or has grown over the budget: it is of no more use.
                del self._parked[ask.session]
                leaving.append(ask.session)
        if place is Place.ALONE and hot and ask.lasting and self._may_open(ask, tokens):
            place = Place.OPENED
        if place is Place.ALONE:
            self._alone_count += 1
            self._alone_tokens += tokens
        else:
            self._busy[ask.session] = tokens
        leaving += self._yield()
        return Turn(ask.session, place, tokens, tuple(leaving))

    def end(self, turn: Turn, held_tokens: int | None, now_s: float) -> bool:
        """The request is over; whether its session stays open, with `held_tokens`. None: it cannot."""
        if turn.session in self._seen:
            # A turn may take longer than sessions idle: they idle from its end on. One that was forgotten stays so.
            self._see(turn.session, now_s)
        if turn.place is Place.ALONE:
            self._alone_count -= 1
            self._alone_tokens -= turn.tokens
            return False
        del self._busy[turn.session]
        forgotten = turn.session in self._forgotten
        self._forgotten.discard(turn.session)
        if held_tokens is None or forgotten:
            return False
        self._parked[turn.session] = _Parked(min(self._whole_blocks(held_tokens), turn.tokens), now_s)
        # Others may have come meanwhile, for whom nobody could leave.
        if self._full:
            del self._parked[turn.session]
        return turn.session in self._parked

    def forget(self, session: str) -> bool:
        """Knows the session no more; whether it must be closed now. One in a turn does not stay after it."""
        self._seen.pop(session, None)
        if session in self._busy:
            self._forgotten.add(session)
        return self._parked.pop(session, None) is not None

    def expire(self, now_s: float) -> tuple[str, ...]:
        """The sessions that leave because they idled for too long."""
        leaving = []
        while (expires_s := self.expires_s) is not None and expires_s <= now_s:
            leaving.append(self._parked.popitem(last=False)[0])
        return tuple(leaving)

    @property
    def expires_s(self) -> float | None:
        """When the next session leaves for idling, if one is parked."""
        longest = next(iter(self._parked.values()), None)
        return None if longest is None else longest.since_s + self.bounds.idle_s

    def _whole_blocks(self, tokens: int) -> int:
        return -(-tokens // self.bounds.block_tokens) * self.bounds.block_tokens

    def _see(self, session: str, now_s: float) -> bool:
        """Notes the session; whether it was seen so short a time ago that it would still have been open."""
        if not session:
            return False
        seen_s = self._seen.pop(session, None)
        self._seen[session] = now_s
        while len(self._seen) > _SEEN_PER_PLACE * max(1, self.bounds.count_max):
            self._seen.popitem(last=False)
        return seen_s is not None and now_s - seen_s <= self.bounds.idle_s

    def _may_open(self, ask: Ask, tokens: int) -> bool:
        free = ask.session not in self._busy and ask.session not in self._parked
        return free and ask.prompt_tokens >= self.bounds.tokens_min and self._may_stay(tokens)

    def _may_stay(self, tokens: int) -> bool:
        """Whether a turn of so many tokens is within the residents' budgets once all that are parked have left."""
        count, busy_tokens = len(self._busy), sum(self._busy.values())
        return count < self.bounds.count_max and busy_tokens + tokens <= self.bounds.tokens_max

    @property
    def _full(self) -> bool:
        slots, tokens = self.count + self._alone_count, self.tokens + self._alone_tokens
        over_budget = self.count > self.bounds.count_max or self.tokens > self.bounds.tokens_max
        return over_budget or slots > self.bounds.slots_count or tokens > self.bounds.capacity_tokens

    def _yield(self) -> Iterator[str]:
        """Those who leave, idle longest first, until budgets and engine are not over-full, or nobody is parked."""
        while self._parked and self._full:
            yield self._parked.popitem(last=False)[0]
