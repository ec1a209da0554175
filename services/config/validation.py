"""What replies are checked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.config.section import Section


class ValidationSettings(Section):
    """Each check: `off`, `flag` (told in the receipt), `redact` (replaced by what it was), `block` (the turn fails),
    `retry` (nothing of it is given out, and the reply is generated anew).
    """

    # Addresses of mail, IBANs, card numbers, US social security numbers, IP addresses, telephone numbers.
    personal_data: Literal["off", "flag", "redact", "block", "retry"] = "off"
    # The words and phrases (whole words, whatever their case) and the regular expressions below.
    forbidden: Literal["off", "flag", "redact", "block", "retry"] = "off"
    forbidden_words: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=1_000
    )
    # Each of bounded length (no * or +), and without a repeat in a repeat.
    forbidden_patterns: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=100
    )
    # How much of what the reply's sentences say stands in its window. Redacted are single sentences.
    grounding: Literal["off", "flag", "redact", "block", "retry"] = "off"
    # A reply below it is acted on; a sentence below it is ungrounded.
    grounding_score_min: float = Field(default=0.5, ge=0, le=1)
    grounding_sentence_min: float = Field(default=0.5, ge=0, le=1)
    # Of a window that did not come with the turn, so much is read from its shard, and for so long. Where that does not
    # do, the reply is flagged at most.
    grounding_window_bytes_max: int = Field(default=8 << 20, ge=0)
    grounding_window_ms_max: int = Field(default=10_000, ge=1)
    # What the request asked the reply to be: its JSON schema, the arguments of strict functions, a call where one is
    # required.
    form: Literal["off", "flag", "block", "retry"] = "block"
    # Tries of a reply beyond its first one, and what becomes of the last one where that is refused, too (a form cannot
    # be redacted, and blocks).
    retries_count_max: int = Field(default=2, ge=0, le=8)
    retries_over: Literal["block", "flag", "redact"] = "block"
    # What is sampled anew is sampled at this temperature at least: at 0 the same would come again.
    retry_temperature_min: float = Field(default=0.7, ge=0, le=2)
    # A reply that is judged as a whole is held so long; what is longer ends there, as by a length limit.
    held_bytes_max: int = Field(default=1 << 20, ge=1, le=4 << 20)
    # This share of the turns is audited in the background, once its reply is committed. So many wait in the gateway for
    # their way to the compressors' queue, and none is added where that has so many jobs: what is over is skipped, and
    # counted.
    audit_share: float = Field(default=0.0, ge=0, le=1)
    audits_waiting_count_max: int = Field(default=1_000, ge=1)
    audits_queue_count_max: int = Field(default=10_000, ge=1)
