"""Who goes next and who is refused: a replica's requests in line for the engine, and for reading their windows.

Pure: the clock is passed in, in seconds. A request is accepted, reads its window, joins the engine's line with the
tokens that it turned out to have, has a place in the batch, and ends. It may leave anywhere on that way.

Order is by arrival, and each step of priority counts as having come `priority_step_ms` earlier or later. So a request
is passed only by those that come within that time, times the steps between them: nobody waits for ever behind what is
more urgent. Nobody passes the first in line while there is no room for it, either.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from inference.rate import ServiceRate
from services.config import InferenceSettings


class QueueFull(Exception):  # noqa: N818
    """A bound is reached; by the pace of the line there is room in `retry_ms`."""

    def __init__(self, message: str, retry_ms: int) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class TooLate(Exception):  # noqa: N818
    """The request's deadline passes before its turn comes."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request. Lower ranks go first; `deadline_s` is infinite for none.

    While it waits it weighs `new_tokens`, those that the engine has to read; in the batch `held_tokens`, those that
    must fit into its KV cache.
    """

    rank: tuple[float, int]
    deadline_s: float
    new_tokens: int = 0
    held_tokens: int = 0


class Moves(NamedTuple):
    """Tickets that have their place from now on, and those whose deadline passed in the line."""

    placed: list[Ticket]
    late: list[Ticket]


class Line:
    """So many places, for so many tokens together (0: any), and those who wait for one."""

    def __init__(self, places_max: int, tokens_max: int = 0) -> None:
        self._places_max = places_max
        self._tokens_max = tokens_max or math.inf
        self._waiting: list[Ticket] = []
        self._placed: set[Ticket] = set()
        self.waiting_tokens = 0
        self.placed_tokens = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def placed(self) -> int:
        """How many have a place."""
        return len(self._placed)

    def ahead_of(self, ticket: Ticket) -> int:
        """How many of those in line go first."""
        return bisect_left(self._waiting, ticket.rank, key=_rank)

    def is_free_for(self, ticket: Ticket) -> bool:
        """Whether it need not wait. One that is larger than the line's bound goes when it is alone."""
        fits = not self._placed or self.placed_tokens + ticket.held_tokens <= self._tokens_max
        return fits and self.placed < self._places_max and not self.ahead_of(ticket)

    def place(self, ticket: Ticket) -> None:
        """Gives a ticket that does not wait a place."""
        self._placed.add(ticket)
        self.placed_tokens += ticket.held_tokens

    def wait(self, ticket: Ticket) -> None:
        """Puts it in line."""
        self._waiting.insert(self.ahead_of(ticket), ticket)
        self.waiting_tokens += ticket.new_tokens

    def leave(self, ticket: Ticket) -> None:
        """Takes it out of its place, or of the line; nothing happens where it has neither."""
        if ticket in self._placed:
            self._placed.remove(ticket)
            self.placed_tokens -= ticket.held_tokens
        elif self._waiting[(at := self.ahead_of(ticket)) : at + 1] == [ticket]:
            del self._waiting[at]
            self.waiting_tokens -= ticket.new_tokens

    def advance(self, now_s: float) -> Moves:
        """Drops whom the time has run out for, then fills the places in order."""
        moves = Moves([], [ticket for ticket in self._waiting if ticket.deadline_s <= now_s])
        for ticket in moves.late:
            self.leave(ticket)
        while self._waiting and self.is_free_for(self._waiting[0]):
            ticket = self._waiting[0]
            self.leave(ticket)
            self.place(ticket)
            moves.placed.append(ticket)
        return moves


class RequestQueue:
    """All requests of a replica, from their arrival to their end, within the bounds of `inference`."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._accepted_max = settings.requests_running_max + settings.requests_waiting_max
        self._tickets: set[Ticket] = set()
        self._number = 0
        self._rate = ServiceRate()
        self.pulls = Line(settings.pulls_concurrent_max)
        self.engine = Line(settings.requests_running_max, settings.running_tokens_max)

    @property
    def accepted(self) -> int:
        """Requests that have come and not ended."""
        return len(self._tickets)

    def accept(self, priority: int, deadline_s: float, now_s: float) -> Ticket:
        """A new request, which counts from now on. Raises QueueFull and TooLate."""
        if self.accepted >= self._accepted_max:
            message = f"{self.accepted} requests are in work; expected at most {self._accepted_max}"
            raise QueueFull(message, self._retry_ms(self._rate.requests_s(now_s, 1)))
        self._number += 1
        head_start_s = priority * self._settings.priority_step_ms / 1000
        ticket = Ticket((now_s + head_start_s, self._number), deadline_s)
        self._check_time(ticket, now_s)
        self._tickets.add(ticket)
        return ticket

    def pull(self, ticket: Ticket) -> bool:
        """Asks for a place to read its window in; False if it has to wait."""
        return _ask(self.pulls, ticket)

    def leave(self, ticket: Ticket) -> None:
        """Takes a request out of its line or its place, wherever it stands."""
        self.pulls.leave(ticket)
        self.engine.leave(ticket)

    def join(self, ticket: Ticket, new_tokens: int, held_tokens: int, now_s: float) -> bool:
        """Asks for a place in the batch; False if it has to wait. Raises QueueFull and TooLate.

        One with more tokens than may wait is let in where nobody waits.
        """
        ticket.new_tokens, ticket.held_tokens = new_tokens, held_tokens
        line, tokens_max = self.engine, self._settings.waiting_tokens_max
        self._check_time(ticket, now_s)
        over = line.waiting_tokens + new_tokens - tokens_max
        if not line.is_free_for(ticket) and line.waiting and over > 0:
            message = f"{line.waiting_tokens} tokens wait for the engine; these {new_tokens} are over {tokens_max}"
            raise QueueFull(message, self._retry_ms(self._rate.tokens_s(now_s, over)))
        is_placed = _ask(line, ticket)
        self._rate.see(now_s, has_line=line.waiting > 0)
        return is_placed

    def advance(self, now_s: float) -> Moves:
        """Whose turn it is now, in either line, and for whom it is too late."""
        pulls, engine = self.pulls.advance(now_s), self.engine.advance(now_s)
        for ticket in engine.placed:
            self._rate.begin(now_s, ticket.new_tokens)
        self._rate.see(now_s, has_line=self.engine.waiting > 0)
        return Moves(pulls.placed + engine.placed, pulls.late + engine.late)

    def end(self, ticket: Ticket) -> None:
        """Forgets a request, wherever it stands."""
        self.leave(ticket)
        self._tickets.discard(ticket)

    def _check_time(self, ticket: Ticket, now_s: float) -> None:
        wait_s = 0.0
        if not self.engine.is_free_for(ticket):
            wait_s = self._rate.requests_s(now_s, self.engine.ahead_of(ticket) + 1) or 0.0
        if now_s + wait_s >= ticket.deadline_s:
            left_s = max(0.0, ticket.deadline_s - now_s)
            raise TooLate(f"the engine is free in some {wait_s:.1f} s; expected before the deadline in {left_s:.1f} s")

    def _retry_ms(self, wait_s: float | None) -> int:
        settings = self._settings
        wait_ms = settings.overload_retry_ms if wait_s is None else math.ceil(wait_s * 1000)
        return max(settings.overload_retry_ms, min(wait_ms, settings.overload_retry_ms_max))


def _ask(line: Line, ticket: Ticket) -> bool:
    is_free = line.is_free_for(ticket)
    (line.place if is_free else line.wait)(ticket)
    return is_free


def _rank(ticket: Ticket) -> tuple[float, int]:
    return ticket.rank
