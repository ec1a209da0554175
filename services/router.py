"""Which member serves a session: the ring over the members of a room that are ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from isthmus.errors.v1 import errors_pb2

from services.config import MembershipSettings
from services.errors import IsthmusError, UpstreamUnavailable
from services.membership import Member, View
from services.ring import Ring
from services.rpc import Channels

STORE: Final = "context_store"
INFERENCE: Final = "inference"
LABEL_MODEL: Final = "model"


class Router:
    """Sessions to members, microseconds a call: a ring is built anew only when its room's members change."""

    def __init__(self, view: View, channels: Channels, settings: MembershipSettings) -> None:
        self._view = view
        self._channels = channels
        self._settings = settings
        self._circles: dict[tuple[str, str], _Circle] = {}
        # Members that did not answer, with the heartbeat after which they count as back.
        self._suspects: dict[tuple[str, str], int] = {}

    def store(self, tenant: str, session: str) -> tuple[str, grpc.aio.Channel]:
        """The shard that owns the session: its member id and a channel to it.

        Raises UPSTREAM_UNAVAILABLE with RetryInfo while no shard is ready.
        """
        circle = self._circle(STORE)
        member = circle.members[circle.ring.owner(_key(tenant, session))]
        return member.id, self._channels.get(member.endpoint, peer=STORE)

    def inference(
        self, tenant: str, session: str, load: Mapping[str, int], model: str = ""
    ) -> tuple[Member, grpc.aio.Channel]:
        """The replica that most likely holds the session's prefix and is not overloaded, and a channel to it.

        `load` counts the calls that each member id has in flight. An empty model takes any. Raises MODEL_NOT_FOUND
        when replicas are ready but none serves the model, UPSTREAM_UNAVAILABLE with RetryInfo while none is ready.
        """
        circle = self._circle(INFERENCE, model)
        member = circle.members[circle.ring.choose(_key(tenant, session), load, self._settings.load_factor)]
        return member, self._channels.get(member.endpoint, peer=INFERENCE)

    def suspect(self, room: str, member_id: str) -> None:
        """Leaves a member that did not answer out until its next heartbeat, unless all are suspect."""
        for member in self._view.members(room):
            if member.id == member_id:
                self._suspects[room, member_id] = member.heartbeat_ms
                self._drop(room)

    def _circle(self, room: str, model: str = "") -> _Circle:
        self._forgive()
        circle = self._circles.get((room, model))
        version = self._view.version(room)
        if circle is None or circle.version != version:
            ready = self._candidates(room, model)
            circle = self._circles[room, model] = _Circle(ready, self._settings.ring_virtual_nodes, version)
        return circle

    def _candidates(self, room: str, model: str) -> list[Member]:
        ready = self._view.ready(room)
        if not ready:
            raise UpstreamUnavailable(f"no member of {room} is ready")
        serving = [member for member in ready if not model or member.labels.get(LABEL_MODEL) == model]
        if not serving:
            names = sorted({member.labels.get(LABEL_MODEL, "") for member in ready})
            raise IsthmusError(
                errors_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"no replica serves {model!r}; expected one of {', '.join(names)}",
            )
        return [member for member in serving if (room, member.id) not in self._suspects] or serving

    def _forgive(self) -> None:
        """Takes back those suspects that have announced themselves since, or are gone from the view."""
        if not self._suspects:
            return
        beats = {(room, m.id): m.heartbeat_ms for room in (STORE, INFERENCE) for m in self._view.members(room)}
        for suspect, heartbeat_ms in tuple(self._suspects.items()):
            if beats.get(suspect) != heartbeat_ms:
                del self._suspects[suspect]
                self._drop(suspect[0])

    def _drop(self, room: str) -> None:
        for key in [key for key in self._circles if key[0] == room]:
            del self._circles[key]


class _Circle:
    """A ring and the members on it, as of one version of the view."""

    def __init__(self, members: list[Member], virtual_nodes: int, version: int) -> None:
        self.ring = Ring({member.id: member.weight for member in members}, virtual_nodes)
        self.members = {member.id: member for member in members}
        self.version = version


def _key(tenant: str, session: str) -> str:
    return f"{tenant}/{session}"
