"""Which replica a turn goes to: by its route's pools in order, or by the ring of all that serve its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from isthmus.errors.v1 import errors_pb2

from gateway.models.placements import Placements
from gateway.pools.pools import Blocked, Pools, Standing, refusal
from gateway.pools.routing import Turn, Way
from gateway.turn.budget import ModelLimits
from services.errors import IsthmusError, UpstreamUnavailable
from services.membership import Member, View
from services.router import INFERENCE, LABEL_MODEL, LABEL_REGION, Placed, Router, models_of, pool_of


@dataclass(frozen=True, slots=True)
class Chosen:
    """A replica, its pool, and the model to ask it for."""

    placed: Placed
    pool: str
    model: str


class Chooser:
    """Chooses by what the view, the pools and the sessions' past say; calls nobody."""

    def __init__(self, view: View, router: Router, pools: Pools, placements: Placements, free: int) -> None:
        self._view = view
        self._router = router
        self._pools = pools
        self._placements = placements
        self._free = free

    def choose(self, turn: Turn, loads: Mapping[str, int], full: Collection[str], now: float) -> Chosen:
        """A replica that is not `full`, by id. `loads` counts the calls that each has.

        Raises UPSTREAM_UNAVAILABLE while none is ready, and with `standing` in its metadata, as OVERLOADED too, where
        none of the pools takes the turn; MODEL_NOT_FOUND for a model that nobody serves, or no rule takes.
        """
        way = self._pools.routes.way(turn)
        if way is not None:
            return self._routed(turn, way, loads, full, now)
        ready = self._view.ready(INFERENCE)
        blocked = self._blocked({pool_of(member) for member in ready}, turn, now)
        out = {each.id for each in ready if pool_of(each) in blocked or self._is_broken(each, now)}
        try:
            placed = self._place(turn, turn.model, loads, full, out)
        except LookupError:
            left_out = [member for member in ready if member.id in out and _serves(member, turn.model)]
            if left_out:
                raise refusal(blocked.get(pool_of(each), _broken(each)) for each in left_out) from None
            raise UpstreamUnavailable("every model replica that is ready is full") from None
        return Chosen(placed, pool_of(placed.member), turn.model)

    def _routed(self, turn: Turn, way: Way, loads: Mapping[str, int], full: Collection[str], now: float) -> Chosen:
        if not way.groups:
            message = f"no rule of {turn.model!r} takes a turn of {turn.tenant} with {turn.tokens} tokens"
            raise IsthmusError(errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, message)
        members = self._members(way)
        fitting = [member for member in members if _fits(member, turn)]
        # Where it fits nowhere, a replica's own count is what the window is planned anew by.
        candidates = fitting or members
        blocked: list[Blocked] = []
        warm = self._placements.warm(turn.tenant, turn.session)
        warm_pool = next((pool_of(member) for member in members if member.id == warm), "")
        regions = {pool_of(member): self._region(member) for member in members}
        for group in way.groups:
            for name in self._pools.ordered(group, turn, regions, warm_pool, now):
                mine = [member for member in candidates if pool_of(member) == name]
                standing = self._pools.blocked(name, turn.tokens, now) if mine else None
                if standing is not None:
                    blocked.append(standing)
                    continue
                chosen = self._of_pool(name, mine, turn, loads, full, now)
                if chosen is not None:
                    return chosen
                blocked += [_broken(member) for member in mine if self._is_broken(member, now)]
        if blocked:
            raise refusal(blocked)
        names = ", ".join(name for group in way.groups for name in group)
        state = "that is ready is full" if members else "is ready"
        raise UpstreamUnavailable(
            f"no replica of {names} {state}" if not members else f"every replica of {names} {state}"
        )

    def _of_pool(
        self,
        name: str,
        mine: Sequence[Member],
        turn: Turn,
        loads: Mapping[str, int],
        full: Collection[str],
        now: float,
    ) -> Chosen | None:
        usable = {member.id for member in mine if member.id not in full and not self._is_broken(member, now)}
        if not usable:
            return None
        wanted = self._pools.get(name).settings.model or ""
        out = {member.id for member in self._view.members(INFERENCE) if member.id not in usable}
        try:
            placed = self._place(turn, wanted, loads, full, out, name)
        except (LookupError, UpstreamUnavailable):
            return None
        return Chosen(placed, name, wanted or placed.member.labels[LABEL_MODEL])

    def _place(
        self,
        turn: Turn,
        model: str,
        loads: Mapping[str, int],
        full: Collection[str],
        out: Collection[str],
        pool: str = "",
    ) -> Placed:
        warm = self._placements.warm(turn.tenant, turn.session)
        return self._router.place(
            turn.tenant, turn.session, loads, model, warm=warm, full=full, free=self._free, pool=pool, out=out
        )

    def _members(self, way: Way) -> list[Member]:
        """Those ready that serve what their pool is asked for."""
        names = {name for group in way.groups for name in group}
        ready = (member for member in self._view.ready(INFERENCE) if pool_of(member) in names)
        return [member for member in ready if _serves(member, self._pools.get(pool_of(member)).settings.model or "")]

    def _blocked(self, names: Collection[str], turn: Turn, now: float) -> dict[str, Blocked]:
        each = (self._pools.blocked(name, turn.tokens, now) for name in names)
        return {one.pool: one for one in each if one is not None}

    def _is_broken(self, member: Member, now: float) -> bool:
        return self._pools.get(pool_of(member)).is_replica_broken(member.id, now)

    def _region(self, member: Member) -> str:
        return self._pools.get(pool_of(member)).settings.region or member.labels.get(LABEL_REGION, "")


def _serves(member: Member, model: str) -> bool:
    return not model or model in models_of(member)


def _broken(member: Member) -> Blocked:
    return Blocked(pool_of(member), Standing.BROKEN)


def _fits(member: Member, turn: Turn) -> bool:
    limits = ModelLimits.from_labels(member.labels)
    return turn.tokens + turn.output_tokens + limits.overhead_tokens <= limits.context_tokens_max
