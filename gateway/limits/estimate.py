"""What a turn will cost before it runs, and what it has cost. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from isthmus.session.v1 import turn_pb2

from services.config import LimitsSettings
from services.limits.money import Tokens, cost_micros, price_of

_BYTES_PER_TOKEN: Final = 4


def tokens_of_bytes(size: int) -> int:
    """Tokens of a text of so many bytes, about; never none."""
    return max(1, -(-size // _BYTES_PER_TOKEN))


def estimate(message_bytes: int, window_tokens: int, *, is_warm: bool) -> Tokens:
    """What the turn's new messages and its window so far come to: a cache has the window only where it is warm."""
    fresh = tokens_of_bytes(message_bytes)
    return Tokens(fresh, window_tokens) if is_warm else Tokens(fresh + window_tokens)


def counted(counts: turn_pb2.TokenCounts) -> Tokens:
    """What a receipt says: where the engine does not know what it had cached, what the replica held counts as that."""
    known = counts.cached_tokens if counts.HasField("cached_tokens") else counts.reused_tokens
    cached = min(counts.window_tokens, known)
    return Tokens(counts.window_tokens - cached, cached, counts.output_tokens)


def spent(receipt: turn_pb2.Receipt) -> Tokens:
    """All that a turn had computed, the tries of its reply that checks refused among it."""
    tries = [counted(tokens) for tokens in (receipt.tokens, *(each.tokens for each in receipt.refused_tries))]
    return Tokens(
        sum(each.input for each in tries), sum(each.cached for each in tries), sum(each.output for each in tries)
    )


def priced(receipt: turn_pb2.Receipt, settings: LimitsSettings) -> turn_pb2.Receipt:
    """The receipt with what it comes to, where its model has a price."""
    price = price_of(settings.prices, receipt.model)
    if price is not None:
        micros = cost_micros(spent(receipt), price)
        receipt.cost.CopyFrom(turn_pb2.Cost(micros=micros, currency=settings.currency))
    return receipt


class Windows:
    """How many tokens the next turn of a session finds in its window, of the `count_max` sessions seen last."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._tokens: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def seen(self, tenant: str, session: str, counts: turn_pb2.TokenCounts) -> None:
        """A turn has ended; its reply is in the next one's window."""
        self._tokens[tenant, session] = counts.window_tokens + counts.output_tokens
        self._tokens.move_to_end((tenant, session))
        while len(self._tokens) > self._count_max:
            self._tokens.popitem(last=False)

    def tokens(self, tenant: str, session: str) -> int:
        """0 where nothing is known: what it really was is settled afterwards."""
        return self._tokens.get((tenant, session), 0)
