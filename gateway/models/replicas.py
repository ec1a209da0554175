"""The model replicas as the gateway sees them: what they serve, and how much each does for it now."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import grpc.aio
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from gateway.models.choosing import Chooser
from gateway.models.loads import Loads
from gateway.models.placements import Placements
from gateway.pools.limit import Quota
from gateway.pools.outcome import Verdict, judge, quota
from gateway.pools.pool import Call
from gateway.pools.pools import Pools
from gateway.pools.routing import Turn
from gateway.turn.budget import ModelLimits
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable
from services.membership import View
from services.placement import Choice
from services.router import INFERENCE, LABEL_EMBEDDING, LABEL_MODEL, Router, models_of, pool_of

if TYPE_CHECKING:
    from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that was picked for one call, and why. `tokenizer` is the digest that its token ids are under, `model`
    what to ask it for.
    """

    member_id: str
    stub: InferenceServiceAsyncStub
    tokenizer: bytes
    choice: Choice
    pool: str
    model: str
    call: Call


class Replicas:
    """Picks a replica by route, pools and the ring with bounded load; remembers where each session's window is."""

    def __init__(
        self,
        view: View,
        router: Router,
        settings: GatewaySettings,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._view = view
        self._router = router
        self._clock = clock
        self._model_default = settings.model_default
        self._loads = Loads()
        self._placements = Placements(settings.placements_count_max)
        self.pools = Pools(settings, uniform)
        self._chooser = Chooser(view, router, self.pools, self._placements, settings.spill_requests_count_min)
        self._stubs: WeakKeyDictionary[grpc.aio.Channel, InferenceServiceAsyncStub] = WeakKeyDictionary()
        self._served: list[ModelLimits] = []
        # The first by name of those that are no adapters.
        self._first_name = ""
        self._served_version = -1
        # What was served when a replica was last there.
        self._known: list[ModelLimits] = []
        self._known_first = ""

    def models(self) -> list[ModelLimits]:
        """The models that ready replicas serve, adapters and routes among them, by name.

        Where replicas of one name differ, the first by id speaks; for a route, the one that takes most.
        """
        version = self._view.version(INFERENCE)
        if version != self._served_version:
            served: dict[str, ModelLimits] = {}
            ready = self._view.ready(INFERENCE)
            for member in ready:
                limits = ModelLimits.from_labels(member.labels)
                for name in models_of(member):
                    served.setdefault(name, replace(limits, name=name))
            routed = {name: self._limits_of_route(name) for name in self.pools.routes.names}
            served |= {name: limits for name, limits in routed.items() if limits is not None}
            self._served = [served[name] for name in sorted(served)]
            self._first_name = min((member.labels[LABEL_MODEL] for member in ready), default="")
            self._served_version = version
            if ready:
                self._known, self._known_first = self._served, self._first_name
        return self._served

    def embedding_models(self) -> set[str]:
        """Names of the models by which ready replicas make vectors."""
        return {member.labels.get(LABEL_EMBEDDING, "") for member in self._view.ready(INFERENCE)} - {""}

    def limits(self, model: str, *, last_known: bool = False) -> ModelLimits:
        """The limits of a model; an empty name takes the default, or the first by name that is no adapter.

        Raises MODEL_NOT_FOUND if replicas are there but none serves it, UPSTREAM_UNAVAILABLE while there is none;
        `last_known` goes by those that were there before, for turns that need none.
        """
        served, first = self.models(), self._first_name
        if not served and last_known:
            served, first = self._known, self._known_first
        if not served:
            raise UpstreamUnavailable("no model replica is ready")
        wanted = model or self._model_default or first
        if self.pools.routes.pools_of(wanted) is not None:
            limits = self._limits_of_route(wanted)
            if limits is None:
                raise UpstreamUnavailable(f"no replica of the pools behind {wanted!r} is ready")
            return limits
        for limits in served:
            if limits.name == wanted:
                return limits
        names = ", ".join(limits.name for limits in served)
        raise IsthmusError(
            errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, f"no replica serves {wanted!r}; expected one of {names}"
        )

    def pick(
        self,
        tenant: str,
        session: str,
        model: str,
        full: Collection[str] = (),
        *,
        tokens: int = 0,
        output_tokens: int = 0,
        task: str = "",
    ) -> Replica:
        """The session's replica, counted as busy until `release`; not one of those that are `full`.

        `tokens` are the window's, `output_tokens` the reply's at most, `task` is a word that rules go by. Raises what
        `Chooser.choose` raises.
        """
        turn = Turn(tenant, session, model, tokens, output_tokens, task)
        loads = self._loads.seen(self._view.members(INFERENCE))
        chosen = self._chooser.choose(turn, loads, full, self._clock())
        placed = chosen.placed
        stub = self._stubs.get(placed.channel)
        if stub is None:
            stub = self._stubs[placed.channel] = InferenceServiceStub(placed.channel)
        member = placed.member
        self._loads.begin(member.id)
        call = self.pools.get(chosen.pool).began(member.id, tokens, self._clock())
        tokenizer = ModelLimits.from_labels(member.labels).tokenizer
        return Replica(member.id, stub, tokenizer, placed.choice, chosen.pool, chosen.model, call)

    def is_other(self, model: str, full: Collection[str]) -> bool:
        """Whether a replica is ready to serve the model, any for an empty one, besides those that are full."""
        pools = self.pools.routes.pools_of(model)
        ready = [member for member in self._view.ready(INFERENCE) if member.id not in full]
        if pools is not None:
            return any(pool_of(member) in pools for member in ready)
        return any(not model or model in models_of(member) for member in ready)

    def is_warm(self, tenant: str, session: str) -> bool:
        """Whether the replica that had the session's window last is still there."""
        warm = self._placements.warm(tenant, session)
        return bool(warm) and any(member.id == warm for member in self._view.ready(INFERENCE))

    def served(self, tenant: str, session: str, replica: Replica) -> None:
        """The replica has the session's window now."""
        self._placements.served(tenant, session, replica.member_id)

    def called(self, replica: Replica) -> None:
        """The replica is asked for a reply."""
        self.pools.get(replica.pool).called()

    def heard(self, replica: Replica, seconds: float) -> None:
        """The replica had its first text after so long, or not yet when it was no longer waited for."""
        self.pools.get(replica.pool).answered(seconds, self._clock())

    def told(self, replica: Replica, limits: inference_service_pb2.ProviderLimits) -> None:
        """The provider behind the replica said what it still takes."""
        has_requests, has_tokens = limits.HasField("requests_remaining"), limits.HasField("tokens_remaining")
        self.pools.get(replica.pool).limit.told(
            self._clock(),
            requests=Quota(limits.requests_remaining, limits.requests_reset_ms / 1000) if has_requests else None,
            tokens=Quota(limits.tokens_remaining, limits.tokens_reset_ms / 1000) if has_tokens else None,
        )

    def finished(self, replica: Replica, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """The replica has said its reply to the end."""
        pool = self.pools.get(replica.pool)
        pool.succeeded(replica.call, self._clock())
        pool.used(prompt_tokens, cached_tokens, output_tokens)

    def failed(self, replica: Replica, error: IsthmusError) -> Verdict:
        """A call ended with an error; whose fault that is."""
        verdict, now = judge(error), self._clock()
        pool = self.pools.get(replica.pool)
        if verdict is Verdict.REFUSED:
            pool.limit.told(now, requests=quota(error.metadata, "requests"), tokens=quota(error.metadata, "tokens"))
        pool.failed(replica.call, verdict, now, (error.retry_after_ms or 0) / 1000)
        return verdict

    def release(self, replica: Replica) -> None:
        """One reply fewer in flight."""
        self._loads.end(replica.member_id)
        self.pools.get(replica.pool).ended(replica.call)

    def suspect(self, replica: Replica) -> None:
        """The replica did not answer: the next pick passes it over until it shows that it lives."""
        self._router.suspect(INFERENCE, replica.member_id)

    def _limits_of_route(self, name: str) -> ModelLimits | None:
        """Those of the replica that takes the longest windows: rules send shorter ones elsewhere."""
        pools = self.pools.routes.pools_of(name) or frozenset()
        each = [ModelLimits.from_labels(one.labels) for one in self._view.ready(INFERENCE) if pool_of(one) in pools]
        largest = max(each, key=lambda limits: limits.context_tokens_max, default=None)
        return None if largest is None else replace(largest, name=name)
