"""Spans of time as people write them on a command line: `90s`, `45m`, `12h`, `30d`. Pure."""

from __future__ import annotations

import re
from typing import Final

_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_FORM: Final = re.compile(r"([0-9]{1,9})([smhd])")


def parse_ms(text: str) -> int:
    """Milliseconds; ValueError says what was expected."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: expected a number with s, m, h or d, such as 90s, 45m, 12h or 30d")
    return int(match[1]) * _UNITS_MS[match[2]]
