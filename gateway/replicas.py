"""The model replicas as the gateway sees them: what they serve, and how much each does for it now."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import grpc.aio
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from gateway.budget import ModelLimits
from services.errors import IsthmusError, UpstreamUnavailable
from services.membership import View
from services.router import INFERENCE, Router

if TYPE_CHECKING:
    from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that was picked for one reply."""

    member_id: str
    stub: InferenceServiceAsyncStub


class Replicas:
    """Picks a replica by the ring with bounded load; the load is what this gateway has in flight."""

    def __init__(self, view: View, router: Router, model_default: str | None) -> None:
        self._view = view
        self._router = router
        self._model_default = model_default
        self._in_flight: Counter[str] = Counter()
        self._stubs: WeakKeyDictionary[grpc.aio.Channel, InferenceServiceAsyncStub] = WeakKeyDictionary()
        self._served: list[ModelLimits] = []
        self._served_version = -1

    def models(self) -> list[ModelLimits]:
        """The models that ready replicas serve, by name. Where replicas of one name differ, the first by id speaks."""
        version = self._view.version(INFERENCE)
        if version != self._served_version:
            served: dict[str, ModelLimits] = {}
            for member in self._view.ready(INFERENCE):
                limits = ModelLimits.from_labels(member.labels)
                served.setdefault(limits.name, limits)
            self._served = [served[name] for name in sorted(served)]
            self._served_version = version
        return self._served

    def limits(self, model: str) -> ModelLimits:
        """The limits of a model; an empty name takes the default, or the first by name where none is configured.

        Raises MODEL_NOT_FOUND if replicas are there but none serves it, UPSTREAM_UNAVAILABLE while there is none.
        """
        served = self.models()
        if not served:
            raise UpstreamUnavailable("no model replica is ready")
        wanted = model or self._model_default or served[0].name
        for limits in served:
            if limits.name == wanted:
                return limits
        names = ", ".join(limits.name for limits in served)
        raise IsthmusError(
            errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, f"no replica serves {wanted!r}; expected one of {names}"
        )

    def pick(self, tenant: str, session: str, model: str) -> Replica:
        """The session's replica, counted as busy until `release`."""
        member, channel = self._router.inference(tenant, session, self._in_flight, model)
        stub = self._stubs.get(channel)
        if stub is None:
            stub = self._stubs[channel] = InferenceServiceStub(channel)
        self._in_flight[member.id] += 1
        return Replica(member.id, stub)

    def release(self, replica: Replica) -> None:
        """One reply fewer in flight."""
        self._in_flight[replica.member_id] -= 1
        if self._in_flight[replica.member_id] <= 0:
            del self._in_flight[replica.member_id]

    def suspect(self, replica: Replica) -> None:
        """The replica did not answer: the next pick passes it over until it shows that it lives."""
        self._router.suspect(INFERENCE, replica.member_id)
