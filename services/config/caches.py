"""Answers that are kept to be given again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.config.section import Section


class CacheSettings(Section):
    """What is cached, for how long, and when it is given."""

    # The answer to the same window, model and parameters, where temperature is 0. A request may ask for it, or refuse.
    exact: Literal["off", "on"] = "off"
    # Models whose answers are also given to questions that ask the same ("*": all), and how sure that has to be:
    # `strict` for open questions, `intent` where questions are of one narrow field, as of a help desk.
    semantic: dict[str, Literal["strict", "intent"]] = Field(default_factory=dict)
    # The least that the verification has to be sure by, for each of the two.
    strict_score_min: float = Field(default=0.9, ge=0, le=1)
    intent_score_min: float = Field(default=0.96, ge=0, le=1)
    # Also answers that were sampled: temperature above 0, or none given.
    sampled: bool = False
    # Where no replica can be reached, give a cached answer, marked as stale, to any turn that did not refuse it.
    serve_when_down: bool = False
    # How long a streamed HTTP answer waits with its headers until it is known whether it is a cached one.
    stream_headers_ms_max: int = Field(default=15_000, ge=0)
    # How long an answer is kept.
    ttl_ms: int = Field(default=86_400_000, ge=1_000)
    # Answers in one scope (model, parameters, system prompt, library versions), least recently used ones going first;
    # and scopes of one tenant.
    semantic_entries_count_max: int = Field(default=10_000, ge=1, le=1_000_000)
    scopes_count_max: int = Field(default=1_000, ge=1)
    # Scopes of which a gateway has the index in memory.
    indexes_count_max: int = Field(default=256, ge=1)
    # What is longer is not cached; questions that are longer are compared by nobody.
    answer_bytes_max: int = Field(default=65_536, ge=1)
    question_bytes_max: int = Field(default=1_024, ge=16, le=8_192)
    # Nearest questions that are verified.
    candidates_count_max: int = Field(default=12, ge=1, le=100)
    # Pairs of questions that were told wrong, of one scope.
    wrong_count_max: int = Field(default=1_000, ge=1)
    # A lookup, or keeping an answer, that takes longer is given up; the turn goes on.
    wait_ms_max: int = Field(default=250, ge=1)
    # How often a gateway adds its counts to those of all, and how long those are kept after the last one.
    counts_flush_ms: int = Field(default=1_000, ge=10)
    counts_kept_ms: int = Field(default=90 * 86_400_000, ge=1_000)
