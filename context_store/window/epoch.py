"""Planning a new epoch: which part of a session the next windows begin with. Pure.

Within an epoch a window only grows, so the replica's prefix cache hits for all but the delta. When the next turn does
not fit under the high-water mark H (the model's room), a new epoch begins at the low-water mark L = ratio * H, and the
replica prefills L tokens anew. With d tokens a turn an epoch lasts (H - L) / d turns, so a turn pays, amortised,

    L * d / (H - L)  =  d * ratio / (1 - ratio)

tokens of prefill beside its own d, while the window holds (H + L) / 2 tokens of the past on average. A ratio of 0.5
costs one delta more a turn and keeps 75 % of the room in use; 0.75 costs three deltas for 87 %, 0.9 nine for 95 %.
Detail grows slower than its price, hence the default of 0.5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from context_store.hot.history import History, Tally
from context_store.window.summaries import SummaryRef, coarsest_cover

NOT_SUMMARISED: Final = 1
NO_ROOM: Final = 2

LEFT_OUT_LISTED_MAX: Final = 64


class TurnTooLargeError(Exception):
    """What the turn must hold verbatim has `tokens`, more than the window's `tokens_max`."""

    def __init__(self, tokens: int, tokens_max: int) -> None:
        super().__init__(f"{tokens} tokens, of at most {tokens_max}")
        self.tokens = tokens
        self.tokens_max = tokens_max


class LeftOut(msgspec.Struct, frozen=True, array_like=True):
    """A span in no window of the epoch; `reason` is NOT_SUMMARISED or NO_ROOM, as in the contract."""

    first: int
    last: int
    tokens: int
    reason: int


class Base(msgspec.Struct, frozen=True, array_like=True):
    """What all windows of an epoch begin with: pinned fragments, summaries, then the log from `tail_from` on.

    `began` is the last sequence number of the epoch's first window, `tokens_max` the room it was planned for.
    """

    epoch: int = 1
    tail_from: int = 1
    began: int = 0
    tokens_max: int = 0
    pinned: tuple[int, ...] = ()
    summaries: tuple[SummaryRef, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    left_out_more: int = 0
    left_out_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Marks:
    """Where an epoch begins: `low_ratio` of the room, of which summaries get at most `summary_share`."""

    low_ratio: float
    summary_share: float


@dataclass(frozen=True, slots=True)
class Past:
    """All that the planner looks at: the log before sequence number `before`, and the summaries of it."""

    history: History
    summaries: Iterable[SummaryRef]
    before: int
    scale: float = 1.0


@dataclass(slots=True)
class _Plan:
    """The plan as it forms, in tokens."""

    past: Past
    tail_from: int
    room: int
    chosen: list[SummaryRef] = field(default_factory=list)

    def cost(self, sequence: int) -> int:
        """Tokens that a verbatim fragment takes from the room; pinned ones are paid for already."""
        history = self.past.history
        return 0 if history.is_pinned(sequence) else history.cost(sequence).tokens(self.past.scale)

    def extend_tail(self, room: int, floor: int = 1) -> None:
        """Moves the tail's begin backwards, not below `floor`, while what it takes in fits into `room` tokens."""
        for sequence in self.past.history.live_backwards(self.tail_from - 1, floor):
            cost = self.cost(sequence)
            if cost > room:
                return
            room -= cost
            self.room -= cost
            self.tail_from = sequence
        self.tail_from = min(self.tail_from, floor)

    def take_summaries(self, room: int) -> None:
        """Takes what fits into `room` tokens of the coarsest cover, newest first."""
        held = {one.name for one in self.chosen}
        for summary in reversed(coarsest_cover(self.past.summaries, self.tail_from)):
            if summary.name not in held and summary.tokens <= room:
                room -= summary.tokens
                self.room -= summary.tokens
                self.chosen.append(summary)
        self.chosen.sort(key=lambda one: one.first)

    def replace_newest_summary(self) -> bool:
        """Gives the newest summary's span its own words where they fit; False where they do not."""
        newest = self.chosen[-1]
        history = self.past.history
        words = sum(self.cost(sequence) for sequence in history.live(newest.first, newest.last))
        if words > self.room + newest.tokens:
            return False
        self.room += newest.tokens
        self.chosen.pop()
        return True


def plan_epoch(past: Past, own: Tally, tokens_max: int, marks: Marks, epoch: int, began: int) -> Base:
    """The base of epoch number `epoch`, of which the first window ends with the turn's `own` messages.

    Pinned fragments, the summaries of the coarsest cover newest first within their share, the newest verbatim tail
    down to the low-water mark, and the names of all the rest. Raises TurnTooLargeError where own and pinned do not fit.
    """
    history, before = past.history, past.before
    pinned = [sequence for sequence in history.live(1, before - 1) if history.is_pinned(sequence)]
    must = (own + history.sum_of(iter(pinned))).tokens(past.scale)
    if must > tokens_max:
        raise TurnTooLargeError(must, tokens_max)
    plan = _Plan(past, before, max(0, int(tokens_max * marks.low_ratio) - must))
    _fill(plan, int(plan.room * marks.summary_share))
    return _base(plan, pinned, epoch, began, tokens_max)


def rebase_without(base: Base, past: Past, erased: Collection[int]) -> Base:
    """The base of the epoch that begins because fragments of this one's window are erased; they are void already.

    They and the summaries that cover them are gone; what those stood for is left out.
    """
    kept = [one for one in base.summaries if not any(one.covers(sequence) for sequence in erased)]
    plan = _Plan(past, base.tail_from, 0, kept)
    pinned = [one for one in base.pinned if one not in erased]
    return _base(plan, pinned, base.epoch + 1, past.before, base.tokens_max)


def rebase_on(base: Base, past: Past) -> Base:
    """The base where all that it names is still there, else that of the epoch which begins without what is gone.

    A fork's base came with a past that its ancestor may have erased since.
    """
    names = {one.name for one in past.summaries}
    pinned = [one for one in base.pinned if not past.history.is_void(one)]
    summaries = [one for one in base.summaries if one.name in names]
    if len(pinned) == len(base.pinned) and len(summaries) == len(base.summaries):
        return base
    plan = _Plan(past, base.tail_from, 0, summaries)
    return _base(plan, pinned, base.epoch + 1, past.before, base.tokens_max)


def _base(plan: _Plan, pinned: list[int], epoch: int, began: int, tokens_max: int) -> Base:
    left_out = _left_out(plan)
    return Base(
        epoch=epoch,
        tail_from=plan.tail_from,
        began=began,
        tokens_max=tokens_max,
        pinned=tuple(sequence for sequence in pinned if sequence < plan.tail_from),
        summaries=tuple(plan.chosen),
        left_out=tuple(left_out[:LEFT_OUT_LISTED_MAX]),
        left_out_more=max(0, len(left_out) - LEFT_OUT_LISTED_MAX),
        left_out_tokens=sum(span.tokens for span in left_out),
    )


def _fill(plan: _Plan, share: int) -> None:
    tail_from, room = plan.tail_from, plan.room
    plan.extend_tail(room)
    if plan.tail_from == 1:
        return
    # It does not all fit verbatim: start again, with the summaries' share set aside.
    plan.tail_from, plan.room = tail_from, room
    plan.extend_tail(room - share)
    plan.take_summaries(share)
    while True:
        floor = plan.chosen[-1].last + 1 if plan.chosen else 1
        plan.extend_tail(plan.room, floor)
        if plan.tail_from > floor or not plan.chosen or not plan.replace_newest_summary():
            break
    plan.take_summaries(plan.room)


def _left_out(plan: _Plan) -> list[LeftOut]:
    """The spans that the plan leaves out, oldest first; neighbours with the same reason are one span."""
    known = iter([*coarsest_cover(plan.past.summaries, plan.tail_from), None])
    chosen = {one.name for one in plan.chosen}
    summary = next(known)
    spans: list[LeftOut] = []
    joins = False
    for sequence in _unpinned_or_break(plan):
        while summary and summary.last < abs(sequence):
            summary = next(known)
        covered = summary is not None and summary.covers(abs(sequence))
        if sequence < 0 or (covered and summary is not None and summary.name in chosen):
            joins = False
            continue
        _note(spans, sequence, plan.cost(sequence), NO_ROOM if covered else NOT_SUMMARISED, joins)
        joins = True
    return spans


def _unpinned_or_break(plan: _Plan) -> Iterator[int]:
    """The live fragments before the tail; a pinned one comes as its negative, for it ends the span around it."""
    history = plan.past.history
    for sequence in history.live(1, plan.tail_from - 1):
        yield -sequence if history.is_pinned(sequence) else sequence


def _note(spans: list[LeftOut], sequence: int, tokens: int, reason: int, joins: bool) -> None:
    if joins and spans[-1].reason == reason:
        last = spans[-1]
        spans[-1] = LeftOut(last.first, sequence, last.tokens + tokens, reason)
    else:
        spans.append(LeftOut(sequence, sequence, tokens, reason))
