"""Fitting an extract into a bound by exact counts: costs shared out by length are right on the whole, not in each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from compressor.extract import Extractor, Piece, render

# Counts the tokens of a text.
Count: TypeAlias = Callable[[str], Awaitable[int]]

# An extract that takes this share of its bound is not worth another count.
_FULL: Final = 0.9
# A bound that was passed is aimed at from a little below.
_SHY: Final = 0.98


@dataclass(frozen=True, slots=True)
class Extract:
    """Sentences in order, and how many tokens they are, one a line; 0 if nobody counted."""

    pieces: list[Piece]
    tokens: int


async def fit(extractor: Extractor, tokens_max: int, count: Count, attempts_max: int) -> Extract:
    """The longest extract found in so many attempts that has at most `tokens_max` tokens by `count`.

    If none of those fits, ever smaller ones are tried until one does; empty if not even a sentence fits. Sentences are
    chosen in a thread, the event loop goes on. Raises what `count` raises.
    """
    best = Extract([], 0)
    tried: list[Piece] | None = None
    budget = float(tokens_max)
    for attempt in itertools.count(1):
        pieces = await asyncio.to_thread(extractor.choose, budget)
        if pieces == tried or (tried and not pieces):
            break
        tried = pieces
        tokens = await count(render(pieces)) if pieces else 0
        if best.tokens <= tokens <= tokens_max:
            best = Extract(pieces, tokens)
        if _FULL * tokens_max <= tokens <= tokens_max or (best.pieces and attempt >= attempts_max):
            break
        budget = _next(budget, extractor.cost(pieces), tokens, tokens_max, hurried=attempt >= attempts_max)
    return best


def _next(budget: float, cost: float, tokens: int, tokens_max: int, *, hurried: bool) -> float:
    """The budget to try after one under which sentences of this cost had so many tokens."""
    if tokens <= tokens_max:
        return budget * tokens_max / max(tokens, 1)
    # Less than what was chosen costs, so that something else is chosen.
    return cost * (0.5 if hurried else _SHY * tokens_max / tokens)
