"""What replies are checked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.config.section import Section


class ValidationSettings(Section):
    """Each check: `off`, `flag` (told in the receipt), `redact` (replaced by what it was), `block` (the turn fails)."""

    # Addresses of mail, IBANs, card numbers, US social security numbers, IP addresses, telephone numbers.
    personal_data: Literal["off", "flag", "redact", "block"] = "off"
    # The words and phrases (whole words, whatever their case) and the regular expressions below.
    forbidden: Literal["off", "flag", "redact", "block"] = "off"
    forbidden_words: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=1_000
    )
    # Each of bounded length (no * or +), and without a repeat in a repeat.
    forbidden_patterns: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=100
    )
    # How much of what the reply's sentences say stands in the messages that came with the turn's window; told only.
    grounding: Literal["off", "flag"] = "off"
    # A reply below it is flagged.
    grounding_score_min: float = Field(default=0.5, ge=0, le=1)
