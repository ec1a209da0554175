"""Which member serves a session: the ring over the members of a room that are ready."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import grpc
from isthmus.errors.v1 import errors_pb2

from services.config import MembershipSettings
from services.config.pools import POOL_DEFAULT
from services.errors import IsthmusError, UpstreamUnavailable
from services.lifecycle import State
from services.membership import Member, View
from services.placement import Bounds, Choice, choose
from services.ring import Ring
from services.rpc import Channels

STORE: Final = "context_store"
INFERENCE: Final = "inference"
LABEL_MODEL: Final = "model"
# The pool that a replica is of, and its region.
LABEL_POOL: Final = "pool"
LABEL_REGION: Final = "region"
# Names of adapters that may be asked for as models, with commas between them.
LABEL_ADAPTERS: Final = "adapters"
# The model that makes vectors there, empty for none.
LABEL_EMBEDDING: Final = "embedding_model"


@dataclass(frozen=True, slots=True)
class Placed:
    """A replica for a session's turn, the channel to it, and why it is that one."""

    member: Member
    channel: grpc.aio.Channel
    choice: Choice


class Circle:
    """A ring and the members on it, as of one version of the view."""

    def __init__(self, members: list[Member], ring: Ring, version: int) -> None:
        self.members = {member.id: member for member in members}
        # False where all of them only finish what is open.
        self.is_ready = all(member.state is State.READY for member in members)
        self.ring = ring
        self.version = version


class Circles:
    """The rings of a view, microseconds a call: one is built anew only when its room's members change."""

    def __init__(self, view: View, settings: MembershipSettings) -> None:
        self._view = view
        self._settings = settings
        self._circles: dict[tuple[str, str, str], Circle] = {}

    def get(self, room: str, model: str = "", pool: str = "") -> Circle:
        """The ring of a room's ready members, or of those that serve a model, or are of a pool. Some member is on it.

        Raises UPSTREAM_UNAVAILABLE with RetryInfo while none is ready, MODEL_NOT_FOUND when none of them serves the
        model.
        """
        circle = self._circles.get((room, model, pool))
        version = self._view.version(room)
        if circle is None or circle.version != version:
            members = self._candidates(room, model, pool)
            circle = self._circles[room, model, pool] = Circle(members, self._ring(members, circle), version)
        return circle

    def owner(self, tenant: str, session: str) -> Member | None:
        """The shard that owns the session; None while no shard takes new work."""
        try:
            circle = self.get(STORE)
        except UpstreamUnavailable:
            return None
        return circle.members[circle.ring.owner(session_key(tenant, session))] if circle.is_ready else None

    def _ring(self, members: list[Member], before: Circle | None) -> Ring:
        """The members' ring: the one before where none that is on it has come, gone or changed its weight."""
        weights = {member.id: member.weight for member in members}
        if before is not None and before.ring.weights == weights:
            return before.ring
        settings = self._settings
        return Ring(weights, settings.ring_virtual_nodes, settings.ring_slots_count, settings.ring_share_factor)

    def _candidates(self, room: str, model: str, pool: str) -> list[Member]:
        members = [member for member in self._view.ready(room) if not pool or pool_of(member) == pool]
        if not members and room == STORE:
            # Shards that drain refuse what is new by themselves, and finish what is open.
            members = [member for member in self._view.members(room) if member.state is State.DRAINING]
        if not members:
            raise UpstreamUnavailable(f"no member of {room} is ready")
        serving = [member for member in members if not model or model in models_of(member)]
        if not serving:
            names = sorted({name for member in members for name in models_of(member)})
            raise IsthmusError(
                errors_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"no replica serves {model!r}; expected one of {', '.join(names)}",
            )
        if room == INFERENCE:
            # They take nothing new. On the ring they keep what was theirs from moving before they have gone.
            draining = [
                member
                for member in self._view.members(room)
                if member.state is State.DRAINING and (not pool or pool_of(member) == pool)
            ]
            serving += [member for member in draining if not model or model in models_of(member)]
        return serving


class Router:
    """Sessions to members and the channels to them; members that did not answer are passed over for a while."""

    def __init__(self, view: View, channels: Channels, settings: MembershipSettings) -> None:
        self._view = view
        self._channels = channels
        self._settings = settings
        self._circles = Circles(view, settings)
        # Members that did not answer, with the heartbeat after which they count as back.
        self._suspects: dict[tuple[str, str], int] = {}

    def store(self, tenant: str, session: str) -> tuple[str, grpc.aio.Channel]:
        """The shard that owns the session, or the next on the ring while that one is suspect: its id and a channel.

        Raises UPSTREAM_UNAVAILABLE with RetryInfo while no shard is ready.
        """
        circle, key = self._circles.get(STORE), session_key(tenant, session)
        member_id = circle.ring.owner(key)
        suspects = self._suspects_of(STORE, circle.members)
        if member_id in suspects:
            member_id = next(each for each in circle.ring.preference(key) if each not in suspects)
        return member_id, self.to_store(circle.members[member_id].endpoint)

    def owns(self, member_id: str, tenant: str, session: str) -> bool:
        """Whether the ring as it is seen here gives the session to the shard."""
        owner = self._circles.owner(tenant, session)
        return owner is not None and owner.id == member_id

    def to_store(self, endpoint: str) -> grpc.aio.Channel:
        """The channel to a shard's `host:port`, for one that was named by another shard."""
        return self._channels.get(endpoint, peer=STORE)

    def inference(
        self, tenant: str, session: str, load: Mapping[str, int], model: str = ""
    ) -> tuple[Member, grpc.aio.Channel]:
        """The replica that most likely holds the session's prefix and is not overloaded, and a channel to it.

        `load` counts the calls that each member id has in flight. An empty model takes any. Raises MODEL_NOT_FOUND
        when replicas are ready but none serves the model, UPSTREAM_UNAVAILABLE with RetryInfo while none is ready.
        """
        placed = self.place(tenant, session, load, model)
        return placed.member, placed.channel

    def place(
        self,
        tenant: str,
        session: str,
        load: Mapping[str, int],
        model: str = "",
        *,
        warm: str = "",
        full: Collection[str] = frozenset(),
        free: int = 0,
        pool: str = "",
        out: Collection[str] = frozenset(),
    ) -> Placed:
        """As `inference`, and why it is that replica.

        `warm` names one that has the session's prefix, `full` those that have refused, `out` those that take no part.
        A replica with less than `free` calls in flight has room whatever the others do. `pool` leaves those of other
        pools aside. Raises LookupError too, where all that are ready are full, or out.
        """
        circle, key = self._circles.get(INFERENCE, model, pool), session_key(tenant, session)
        ready = {member.id for member in circle.members.values() if member.state is State.READY}.difference(out)
        suspects = self._suspects_of(INFERENCE, ready.difference(full))
        away = suspects.union(circle.members.keys() - ready)
        bounds = Bounds(self._settings.load_factor, free)
        ring = circle.ring
        choice = choose(ring.preference(key), ring.weights, load, bounds, away=away, full=full, warm=warm)
        member = circle.members[choice.member]
        return Placed(member, self._channels.get(member.endpoint, peer=INFERENCE), choice)

    def embedders(self) -> set[str]:
        """The models that make vectors somewhere now."""
        return {member.labels.get(LABEL_EMBEDDING, "") for member in self._view.ready(INFERENCE)} - {""}

    def embedding(self, tenant: str, session: str, embedder: str = "") -> tuple[Member, grpc.aio.Channel]:
        """A replica that makes vectors, by this model if one is named, and a channel to it.

        Raises UPSTREAM_UNAVAILABLE while no replica is ready, MODEL_NOT_FOUND where none that is makes such vectors.
        """
        wanted = {embedder} if embedder else self.embedders()
        ready = self._view.ready(INFERENCE)
        out = [member.id for member in ready if member.labels.get(LABEL_EMBEDDING, "") not in wanted]
        if ready and len(out) == len(ready):
            raise IsthmusError(
                errors_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"no replica makes vectors by {embedder or 'any model'}; expected one whose embedding model is set",
            )
        placed = self.place(tenant, session, {}, out=out)
        return placed.member, placed.channel

    def suspect(self, room: str, member_id: str) -> None:
        """Leaves a member that did not answer out until its next heartbeat, unless all are suspect."""
        for member in self._view.members(room):
            if member.id == member_id:
                self._suspects[room, member_id] = member.heartbeat_ms

    def _suspects_of(self, room: str, members: Collection[str]) -> frozenset[str]:
        """Which of the members are suspect; none if all are."""
        if not self._suspects:
            return frozenset()
        self._forgive()
        suspects = frozenset(member_id for member_id in members if (room, member_id) in self._suspects)
        return suspects if len(suspects) < len(members) else frozenset()

    def _forgive(self) -> None:
        """Takes back those suspects that have announced themselves since, or are gone from the view."""
        beats = {(room, m.id): m.heartbeat_ms for room in (STORE, INFERENCE) for m in self._view.members(room)}
        for suspect, heartbeat_ms in tuple(self._suspects.items()):
            if beats.get(suspect) != heartbeat_ms:
                del self._suspects[suspect]


def session_key(tenant: str, session: str) -> str:
    """What the rings hash."""
    return f"{tenant}/{session}"


def models_of(member: Member) -> list[str]:
    """The names of the models that a replica serves: its own, then its adapters'."""
    adapters = member.labels.get(LABEL_ADAPTERS, "")
    return [member.labels.get(LABEL_MODEL, ""), *filter(None, adapters.split(","))]


def pool_of(member: Member) -> str:
    """The pool that a replica announces; those of other releases announce none, and are of the usual one."""
    return member.labels.get(LABEL_POOL, POOL_DEFAULT)
