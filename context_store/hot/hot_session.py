"""A session as a shard holds it in memory: what the planner needs, without texts. Pure.

It is a copy. `version` says of which state: a write carries it, and one that finds another version in Valkey changes
nothing and tells the shard to read what it missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from isthmus.session.v1 import session_pb2, turn_pb2

from context_store.hot.history import History, Tally
from context_store.log.fragments import Draft, estimate_tokens
from context_store.log.links import Link
from context_store.window.epoch import Base, Marks, Past, plan_epoch
from context_store.window.segments import Segments
from context_store.window.summaries import SummaryRef
from context_store.window.window import Window

SCALE_MIN = 0.25
SCALE_MAX = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned window. `base` is set where a new epoch begins."""

    base: Base | None


@dataclass(slots=True)
class HotSession:
    """The state of one session as of `version`. `incarnation` tells it from an earlier session of the same name."""

    tenant: str
    session: str
    incarnation: bytes
    version: bytes
    own: session_pb2.Session
    marks: Marks
    history: History
    segments: Segments
    summaries: dict[str, SummaryRef] = field(default_factory=dict)
    # The spans that have a summary of level 1.
    summarised: set[tuple[int, int]] = field(default_factory=set)
    turn_count: int = 0
    done_input: int = 0
    open: turn_pb2.Turn | None = None
    tokenizer: bytes = b""
    scale: float = 1.0
    # Closed segments that the compressor was told of.
    announced: int = 0
    # The versions that last changed a part which is read whole when another shard changed it.
    void_at: bytes = b""
    counts_at: bytes = b""
    summaries_at: bytes = b""
    # The past that a fork reads from its ancestors' logs: up to where, and what of the sums is not its own.
    links: tuple[Link, ...] = ()
    shared: int = 0
    shared_bytes: int = 0
    shared_tokens: int = 0
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        self.window = Window(Base(), self.history)

    @property
    def memory_bytes(self) -> int:
        """About what it takes in memory."""
        parts = self.history.memory_bytes + self.window.memory_bytes + self.segments.memory_bytes
        return 4096 + self.own.ByteSize() + parts + 512 * len(self.summaries)

    @property
    def is_on_disk(self) -> bool:
        """Whether an acknowledgement waits for a disk."""
        return self.own.durability == session_pb2.DURABILITY_DISK

    def limit(self, tokens_max: int) -> int:
        """The caller's room for a window, under the session's own limit where it has one."""
        own = self.own.window_tokens_max
        return min(tokens_max, own) if own else tokens_max

    def tokens(self) -> int:
        """All tokens of the log, estimated where they are not counted yet."""
        return self.history.tally.tokens(self.scale)

    def use_tokenizer(self, tokenizer: bytes) -> None:
        """Counts by another tokenizer than `tokenizer` are estimates from now on; empty keeps what is."""
        if tokenizer and tokenizer != self.tokenizer:
            self.tokenizer = tokenizer
            self.history.forget_counts()
            self.window = Window(self.window.base, self.history)

    def count(self, sequence: int, tokens: int) -> None:
        """Takes in an exact count of one fragment."""
        if not 1 <= sequence <= self.history.revision or self.history.is_erased(sequence):
            return
        before = self.history.cost(sequence)
        self.history.set_count(sequence, tokens)
        if self.window.holds_verbatim(sequence):
            self.window.recount(before, self.history.cost(sequence))

    def calibrate(self, count: int, measured: int) -> None:
        """Fits the estimates of the first `count` items to what the replica measured for all of them."""
        tally = self.window.tally(count)
        if tally.estimated and measured > tally.exact:
            self.scale = min(SCALE_MAX, max(SCALE_MIN, (measured - tally.exact) / tally.estimated))

    def plan(self, drafts: list[Draft], tokens_max: int) -> Plan:
        """Plans the window of a turn whose messages are `drafts`. Costs O(drafts) within an epoch.

        Raises TurnTooLargeError.
        """
        own = Tally(0, sum(estimate_tokens(draft.size) for draft in drafts))
        last = self.history.revision + len(drafts)
        return self._plan(self.window.tally(len(self.window)), own, self.history.revision + 1, last, tokens_max)

    def plan_turn(self, turn: turn_pb2.Turn, tokens_max: int) -> Plan:
        """Plans the window of a turn whose messages are in the log already. Raises TurnTooLargeError."""
        first, last = turn.first_input_sequence, turn.last_input_sequence
        own = self.history.sum_of(self.history.live(first, last))
        return self._plan(self.window.tally(self.window.count_to(first - 1)), own, first, last, tokens_max)

    def _plan(self, before: Tally, own: Tally, first: int, last: int, tokens_max: int) -> Plan:
        base = self.window.base
        if self.window.suits((before + own).tokens(self.scale), tokens_max):
            return Plan(None)
        past = Past(self.history, self.summaries.values(), first, self.scale)
        return Plan(plan_epoch(past, own, tokens_max, self.marks, base.epoch + 1, last))

    def append(self, drafts: Sequence[Draft]) -> None:
        """Takes in fragments that are in the log now."""
        for draft in drafts:
            self.history.append(draft.digest, draft.size, draft.origin.turn, draft.origin.pinned)
        self.window.grow()
        self.settle()

    def begin_epoch(self, base: Base) -> None:
        self.window = Window(base, self.history)

    def opened(self, turn: turn_pb2.Turn, drafts: list[Draft], base: Base | None) -> None:
        """Takes in that a turn was opened with these messages, and perhaps an epoch with it."""
        self.open = turn
        self.turn_count = turn.number
        self.append(drafts)
        if base:
            self.begin_epoch(base)

    def done(self, turn: turn_pb2.Turn, drafts: list[Draft]) -> None:
        """Takes in that the open turn was committed with this reply."""
        self.open = None
        self.done_input = turn.last_input_sequence
        self.append(drafts)

    def voided(self, turn: turn_pb2.Turn) -> None:
        """Takes in that the open turn came to nothing."""
        self.open = None
        first, last = turn.first_input_sequence, turn.last_input_sequence
        self.window.truncate(first)
        self.history.void_turn(turn.number, first, last)
        self.window.grow()
        self.settle()

    def summarise(self, summary: SummaryRef) -> None:
        """Takes in a summary."""
        self.summaries[summary.name] = summary
        if summary.level == 1:
            self.summarised.add((summary.first, summary.last))

    def erase(self, sequence: int) -> list[SummaryRef]:
        """Forgets a fragment and every summary that covers it; returns those. The window is the caller's to renew."""
        self.history.erase(sequence)
        gone = [one for one in self.summaries.values() if one.covers(sequence)]
        for summary in gone:
            self.erase_summary(summary)
        return gone

    def erase_summary(self, summary: SummaryRef) -> None:
        del self.summaries[summary.name]
        self.summarised.discard((summary.first, summary.last))

    def reannounce(self, sequence: int) -> None:
        """Has the segment announced again that holds a fragment, as its summary is gone."""
        index = self.segments.holding(sequence)
        if index is not None:
            self.announced = min(self.announced, index)

    def settle(self) -> None:
        """Cuts segments as far as the log is settled: up to the messages of an open turn."""
        settled = self.open.first_input_sequence - 1 if self.open else self.history.revision
        self.segments.advance(self.history, settled)

    def prefix_count(self) -> int:
        return self.window.prefix_count(self.done_input)

    def is_unsummarised(self, segment: tuple[int, int]) -> bool:
        """Whether a closed segment has anything to summarise and no summary yet."""
        return segment not in self.summarised and next(self.history.live(*segment), None) is not None
