"""Summaries as the planner sees them: which span, how many tokens, which digest; and how one is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from isthmus.context.v1 import summary_pb2, window_pb2
from isthmus.session.v1 import message_pb2

from context_store.log.fragments import estimate_tokens
from services.digest import fragment_digest

# What the heading and the item itself take beyond the sentences.
HEADING_TOKENS = 32


class SummaryRef(msgspec.Struct, frozen=True, array_like=True):
    """A summary without its text. `first` to `last` is the span, `tokens` those of its window item."""

    first: int
    last: int
    level: int
    method: str
    version: int
    tokens: int
    size: int
    digest: bytes

    @property
    def name(self) -> str:
        """Unique within the session; the same name is the same work done."""
        return f"{self.level}:{self.first}-{self.last}:{self.method}:{self.version}"

    def covers(self, sequence: int) -> bool:
        return self.first <= sequence <= self.last


def render(summary: summary_pb2.Summary) -> str:
    """The text of a summary's window item: a heading that names the span, then its sentences, one a line."""
    heading = f"Summary of entries {summary.first_sequence} to {summary.last_sequence} of this session:"
    return "\n".join([heading, *(sentence.text for sentence in summary.sentences)])


def item(summary: summary_pb2.Summary) -> window_pb2.WindowItem:
    """The window item of a summary, without its token count."""
    text = render(summary)
    kind, role = window_pb2.WINDOW_ITEM_KIND_SUMMARY, message_pb2.ROLE_SYSTEM
    return window_pb2.WindowItem(
        kind=kind,
        role=role,
        text=text,
        digest=fragment_digest(kind, role, "", 0, text),
        first_sequence=summary.first_sequence,
        last_sequence=summary.last_sequence,
    )


def ref(summary: summary_pb2.Summary) -> SummaryRef:
    """What the planner keeps of a summary."""
    shown = item(summary)
    size = len(shown.text.encode())
    return SummaryRef(
        first=summary.first_sequence,
        last=summary.last_sequence,
        level=summary.level,
        method=summary.method,
        version=summary.version,
        tokens=summary.tokens + HEADING_TOKENS if summary.tokens else estimate_tokens(size),
        size=size,
        digest=shown.digest,
    )


def coarsest_cover(available: Iterable[SummaryRef], before: int) -> list[SummaryRef]:
    """A disjoint cover of the log in front of sequence number `before`, in log order.

    Higher levels are taken first, then newer versions; finer ones fill what those leave open.
    """
    candidates = [summary for summary in available if summary.last < before]
    candidates.sort(key=lambda one: (-one.level, -one.version, one.method, one.first, one.last))
    chosen: list[SummaryRef] = []
    for level in sorted({one.level for one in candidates}, reverse=True):
        same = sorted((one for one in candidates if one.level == level), key=lambda one: one.first)
        chosen = _merge(chosen, same)
    return chosen


def _merge(coarser: list[SummaryRef], finer: list[SummaryRef]) -> list[SummaryRef]:
    """Adds those of `finer` that overlap neither `coarser` nor one another; both are in log order."""
    merged: list[SummaryRef] = []
    waiting = iter([*coarser, None])
    following = next(waiting)
    covered_to = 0
    for one in finer:
        while following and following.first <= one.first:
            merged.append(following)
            covered_to = following.last
            following = next(waiting)
        if one.first > covered_to and (following is None or one.last < following.first):
            merged.append(one)
            covered_to = one.last
    return [*merged, *([following] if following else []), *(one for one in waiting if one)]
