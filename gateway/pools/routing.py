"""From the model that a turn asks for to the pools that may serve it, in order. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.config import GatewaySettings, PoolSettings, RouteSettings, RuleSettings
from services.config.pools import TIER


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known of a turn when its replica is chosen: tokens of the window, and the most of the reply. Without a
    `task` the model's name may have one, after a colon.
    """

    tenant: str
    session: str
    model: str
    tokens: int = 0
    output_tokens: int = 0
    task: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """The pools for a turn: groups of equals, each the fallback of the one before."""

    groups: tuple[tuple[str, ...], ...]
    by_cost: bool = False


class Routes:
    """The routes that are configured."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._routes = settings.routes
        self._pools = settings.pools

    @property
    def names(self) -> Sequence[str]:
        """The models that routes stand for."""
        return tuple(self._routes)

    def pools_of(self, model: str) -> frozenset[str] | None:
        """All pools that turns of this model may come to; None where no route has it."""
        route = self._find(model)
        if route is None:
            return None
        return frozenset(pool for rule in route.rules for group in self._groups(rule) for pool in group)

    def way(self, turn: Turn) -> Way | None:
        """The pools for a turn, by the first rule that takes it; no groups where none does, None without a route."""
        route = self._find(turn.model)
        if route is None:
            return None
        task = turn.task or self._task(turn.model)
        for rule in route.rules:
            if _takes(rule, turn, task):
                return Way(tuple(self._groups(rule)), route.prefer == "cost")
        return Way(())

    def _find(self, model: str) -> RouteSettings | None:
        return self._routes.get(model) or self._routes.get(model.partition(":")[0])

    def _task(self, model: str) -> str:
        # A model's own name may have a colon.
        return "" if model in self._routes else model.partition(":")[2]

    def _groups(self, rule: RuleSettings) -> Iterator[tuple[str, ...]]:
        for entry in rule.pools:
            yield _of_tier(self._pools, entry.removeprefix(TIER)) if entry.startswith(TIER) else (entry,)


def _takes(rule: RuleSettings, turn: Turn, task: str) -> bool:
    fits = rule.tokens_min <= turn.tokens and (rule.tokens_max is None or turn.tokens <= rule.tokens_max)
    return fits and (not rule.tasks or task in rule.tasks) and (not rule.tenants or turn.tenant in rule.tenants)


def _of_tier(pools: Mapping[str, PoolSettings], tier: str) -> tuple[str, ...]:
    return tuple(name for name, pool in pools.items() if pool.tier == tier)
