"""What the clients were told, turn by turn, and what it says about how long they were not served. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A turn whose `done` a client has read. Times are seconds of one monotonic clock, `begun` of the first attempt."""

    session: str
    text: str
    reply: str
    turn: int
    begun: float
    at: float
    shard: str


class Ledger:
    """Every acknowledgement in its order, every turn that was given up, and the errors met on the way by reason."""

    def __init__(self, sessions: tuple[str, ...]) -> None:
        self.sessions = sessions
        self.acknowledged: dict[str, list[Acknowledged]] = {session: [] for session in sessions}
        # Texts that were sent and not acknowledged: they may be in the log or not.
        self.unsure: dict[str, set[str]] = defaultdict(set)
        self.uncured: list[str] = []
        self.met: Counter[str] = Counter()

    def acknowledge(self, turn: Acknowledged) -> None:
        """A client has read its `done`."""
        self.acknowledged[turn.session].append(turn)

    def give_up(self, session: str, text: str, why: str | None) -> None:
        """A client has stopped trying, because of an error that went on, or (None) because the run is over."""
        self.unsure[session].add(text)
        if why is not None:
            self.uncured.append(f"{session}: {text!r} was never acknowledged: {why}")

    @property
    def turns(self) -> list[Acknowledged]:
        """All acknowledged turns."""
        return [turn for turns in self.acknowledged.values() for turn in turns]

    def moves(self) -> int:
        """How often a session's turn was served by another shard than the one before."""
        return sum(
            before.shard != after.shard for turns in self.acknowledged.values() for before, after in pairwise(turns)
        )

    def all_served_since(self, since: float) -> bool:
        """Whether every session had a turn that was begun since then acknowledged."""
        return all(turns and turns[-1].begun >= since for turns in self.acknowledged.values())

    def away_s(self, since: float, until: float) -> float:
        """How long service was away from the session that missed it longest, for a fault at `since`, whole at `until`.

        For each session the longer of: the time from the fault until a turn begun after it was acknowledged; and, of
        all turns under way between the two, the longest time from the fault, or from the turn's beginning if that was
        later, to its acknowledgement. So neither a turn that was all but done, nor a second loss of service, hides.
        """
        return max((_away_s(turns, since, until) for turns in self.acknowledged.values()), default=0.0)


def _away_s(turns: list[Acknowledged], since: float, until: float) -> float:
    first = next((turn.at - since for turn in turns if turn.begun >= since), 0.0)
    return max((first, *_waits(turns, since, until)))


def _waits(turns: list[Acknowledged], since: float, until: float) -> Iterator[float]:
    for turn in turns:
        if turn.at >= since and turn.begun <= until:
            yield turn.at - max(since, turn.begun)
