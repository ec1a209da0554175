"""Tokens as money, in whole millionths of a currency's unit, and months by UTC. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # Each command prints money; the settings would be half of the time that it takes to start.
    from services.config.limits import Price

MICROS: Final = 1_000_000
# Beyond these a meter's millionths would not be whole numbers in Lua any more.
BUDGET_MICROS_MAX: Final = 1 << 50
_ANY_MODEL: Final = "*"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a turn had computed, and what a cache spared it."""

    input: int = 0
    cached: int = 0
    output: int = 0

    @property
    def computed(self) -> int:
        """Those that count against tokens per minute."""
        return self.input + self.output


def price_of(prices: Mapping[str, Price], model: str) -> Price | None:
    """The model's price, or that of any other model."""
    return prices.get(model) or prices.get(_ANY_MODEL)


def cost_micros(tokens: Tokens, price: Price | None) -> int:
    """What the tokens cost, rounded up: what has a price is never free."""
    if price is None:
        return 0
    parts = (
        tokens.input * price.input_micros,
        tokens.cached * price.cached_input_micros,
        tokens.output * price.output_micros,
    )
    return -(-sum(parts) // MICROS)


def parse_money(text: str) -> int:
    """Micros of an amount such as `25` or `0.50`; ValueError says what was expected."""
    try:
        micros = Decimal(text) * MICROS
        whole = int(micros)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(_wrong(text)) from None
    if whole != micros or not 0 < whole <= BUDGET_MICROS_MAX:
        raise ValueError(_wrong(text))
    return whole


def money(micros: int) -> str:
    """An amount as people write it, with two decimals or as many as it has."""
    units, rest = divmod(micros, MICROS)
    return f"{units}.{f'{rest:06d}'.rstrip('0').ljust(2, '0')}"


def month_of(now_us: int) -> str:
    """The calendar month, such as `2026-11`."""
    return datetime.fromtimestamp(now_us / MICROS, UTC).strftime("%Y-%m")


def month_end_us(now_us: int) -> int:
    """When the next month begins."""
    now = datetime.fromtimestamp(now_us / MICROS, UTC)
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * MICROS


def _wrong(text: str) -> str:
    return f"{text!r}: expected an amount above 0 with at most 6 decimals, such as 25 or 0.50"
