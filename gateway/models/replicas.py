"""The model replicas as the gateway sees them: what they serve, and how much each does for it now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import grpc.aio
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from gateway.models.loads import Loads
from gateway.models.placements import Placements
from gateway.turn.budget import ModelLimits
from services.config import GatewaySettings
from services.errors import IsthmusError, UpstreamUnavailable
from services.membership import View
from services.placement import Choice
from services.router import INFERENCE, LABEL_MODEL, Router, models_of

if TYPE_CHECKING:
    from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that was picked for one reply, and why. `tokenizer` is the digest that its token ids are under."""

    member_id: str
    stub: InferenceServiceAsyncStub
    tokenizer: bytes
    choice: Choice


class Replicas:
    """Picks a replica by the ring with bounded load, and remembers where each session's window is."""

    def __init__(self, view: View, router: Router, settings: GatewaySettings) -> None:
        self._view = view
        self._router = router
        self._model_default = settings.model_default
        self._free = settings.spill_requests_count_min
        self._loads = Loads()
        self._placements = Placements(settings.placements_count_max)
        self._stubs: WeakKeyDictionary[grpc.aio.Channel, InferenceServiceAsyncStub] = WeakKeyDictionary()
        self._served: list[ModelLimits] = []
        # The first by name of those that are no adapters.
        self._first_name = ""
        self._served_version = -1
        # What was served when a replica was last there.
        self._known: list[ModelLimits] = []
        self._known_first = ""

    def models(self) -> list[ModelLimits]:
        """The models that ready replicas serve, adapters among them, by name.

        Where replicas of one name differ, the first by id speaks.
        """
        version = self._view.version(INFERENCE)
        if version != self._served_version:
            served: dict[str, ModelLimits] = {}
            ready = self._view.ready(INFERENCE)
            for member in ready:
                limits = ModelLimits.from_labels(member.labels)
                for name in models_of(member):
                    served.setdefault(name, replace(limits, name=name))
            self._served = [served[name] for name in sorted(served)]
            self._first_name = min((member.labels[LABEL_MODEL] for member in ready), default="")
            self._served_version = version
            if ready:
                self._known, self._known_first = self._served, self._first_name
        return self._served

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
        for limits in served:
            if limits.name == wanted:
                return limits
        names = ", ".join(limits.name for limits in served)
        raise IsthmusError(
            errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, f"no replica serves {wanted!r}; expected one of {names}"
        )

    def pick(self, tenant: str, session: str, model: str, full: Collection[str] = ()) -> Replica:
        """The session's replica, counted as busy until `release`; not one of those that are `full`.

        Raises UPSTREAM_UNAVAILABLE while there is none.
        """
        loads = self._loads.seen(self._view.members(INFERENCE))
        warm = self._placements.warm(tenant, session)
        try:
            placed = self._router.place(tenant, session, loads, model, warm=warm, full=full, free=self._free)
        except LookupError:
            raise UpstreamUnavailable("every model replica that is ready is full") from None
        stub = self._stubs.get(placed.channel)
        if stub is None:
            stub = self._stubs[placed.channel] = InferenceServiceStub(placed.channel)
        member = placed.member
        self._loads.begin(member.id)
        return Replica(member.id, stub, ModelLimits.from_labels(member.labels).tokenizer, placed.choice)

    def is_other(self, model: str, full: Collection[str]) -> bool:
        """Whether a replica is ready to serve the model, any for an empty one, besides those that are full."""
        ready = self._view.ready(INFERENCE)
        return any(member.id not in full and (not model or model in models_of(member)) for member in ready)

    def served(self, tenant: str, session: str, replica: Replica) -> None:
        """The replica has the session's window now."""
        self._placements.served(tenant, session, replica.member_id)

    def release(self, replica: Replica) -> None:
        """One reply fewer in flight."""
        self._loads.end(replica.member_id)

    def suspect(self, replica: Replica) -> None:
        """The replica did not answer: the next pick passes it over until it shows that it lives."""
        self._router.suspect(INFERENCE, replica.member_id)
