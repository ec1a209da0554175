"""What the clients saw: when each call began, and what was acknowledged to whom. It is all that the checker knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from math import inf

from isthmus.session.v1 import turn_pb2

from tests.simulation.plan import is_child


@dataclass(frozen=True, slots=True)
class Opened:
    """A driver was told that a turn is its own. `until_s` is how long its lease lives at least."""

    session: str
    request: str
    turn: int
    attempt: int
    is_taken_over: bool
    at_s: float
    until_s: float
    began: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """A driver was told that its lease lives on."""

    session: str
    turn: int
    attempt: int
    until_s: float
    began: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A caller was told how a turn ended, `output` is None where there is no reply. `began` and `ended` are moments."""

    session: str
    request: str
    turn: int
    state: turn_pb2.Turn.State.ValueType
    output: str | None
    first_input: int
    last_sequence: int
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Written:
    """A caller was told that its messages, or its document, are in the log."""

    session: str
    key: str
    sequences: tuple[int, ...]
    began: int
    ended: int


@dataclass(slots=True)
class History:
    """Everything in the order in which it was seen."""

    # What was asked for: request to texts.
    requests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    began: dict[str, int] = field(default_factory=dict)
    opened: list[Opened] = field(default_factory=list)
    renewed: list[Renewed] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    # (session, sequence) of fragments that may be gone, and of those that have to be, to when that was asked for.
    erasing: set[tuple[str, int]] = field(default_factory=set)
    erased: dict[tuple[str, int], int] = field(default_factory=dict)
    # Forks that are there, and (session, etag) of what is gone for good.
    forked: set[str] = field(default_factory=set)
    deleted: set[tuple[str, str]] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    # Sessions to deletions under way, and to when the last one was over.
    _deleting: Counter[str] = field(default_factory=Counter)
    _lives: dict[str, float] = field(default_factory=dict)
    _clock: count[int] = field(default_factory=lambda: count(1))

    def tick(self) -> int:
        """The next moment."""
        return next(self._clock)

    def begin(self, key: str) -> int:
        """When a request was first sent; asking again for the same one is no new beginning."""
        return self.began.setdefault(key, self.tick())

    @contextmanager
    def deletion(self, session: str) -> Iterator[None]:
        """Within it a session may go at any moment."""
        self._lives[session] = inf
        self._deleting[session] += 1
        yield
        self._deleting[session] -= 1
        if not self._deleting[session]:
            self._lives[session] = self.tick()

    def may_be_gone(self, session: str) -> bool:
        return session in self._lives or (is_child(session) and session not in self.forked)

    def is_of_now(self, session: str, began: int) -> bool:
        """Whether what began then can only be of the session that there is at the end."""
        return began > self._lives.get(session, 0)

    def violate(self, message: str) -> None:
        self.violations.append(message)
