"""Which caches a turn may use. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from isthmus.session.v1 import session_service_pb2

from services.config import CacheSettings

Policy = session_service_pb2.CachePolicy
_ALL_MODELS: Final = "*"


@dataclass(frozen=True, slots=True)
class Use:
    """What a turn may be given, and whether its answer is kept. `score_min` is None where questions are not compared.

    `stale` says that any of it is given, too, where no replica can be reached.
    """

    exact: bool = False
    score_min: float | None = None
    stale: bool = False
    # How questions are compared: `strict`, or `intent`.
    level: str = "strict"

    @property
    def keeps(self) -> bool:
        """Whether its own answer is worth keeping."""
        return self.exact or self.score_min is not None or self.stale


NONE: Final = Use()


def use_of(request: session_service_pb2.RunTurnRequest, model: str, settings: CacheSettings) -> Use:
    """What the request, and the settings where it leaves it to them, want for a model."""
    mode = request.cache.mode
    params = request.params
    # A cached text has no log probabilities.
    if mode == Policy.MODE_OFF or params.HasField("logprobs"):
        return NONE
    asks = mode in (Policy.MODE_EXACT, Policy.MODE_SEMANTIC)
    is_fixed = params.HasField("temperature") and params.temperature == 0
    may = asks or is_fixed or settings.sampled
    level = settings.semantic.get(model) or settings.semantic.get(_ALL_MODELS)
    if mode == Policy.MODE_SEMANTIC:
        level = level or "strict"
    elif mode == Policy.MODE_EXACT:
        level = None
    score_min = None
    if level is not None and may:
        score_min = settings.intent_score_min if level == "intent" else settings.strict_score_min
    return Use(
        exact=may and (asks or settings.exact == "on" or score_min is not None),
        score_min=score_min,
        stale=settings.serve_when_down,
        level=level or "strict",
    )
