"""A whole mesh in one event loop: real rooms, real gRPC and HTTP between them, on a test's Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from compressor.room import CompressorRoom
from context_store.room import ContextStoreRoom
from gateway.room import GatewayRoom
from inference.room import InferenceRoom
from services.config import Settings
from services.lifecycle import Lifecycle, Room, RoomContext
from services.membership import View
from services.router import INFERENCE, STORE
from services.valkey import connect
from tests.support.eventually import eventually
from tests.support.spans import recorder

_ANY_PORT = "127.0.0.1:0"

GATEWAY = "gateway"
COMPRESSOR = "compressor"


@dataclass
class Running:
    """A room that was started here."""

    room: Room
    lifecycle: Lifecycle


@dataclass
class Mesh:
    """The rooms by member id: `context_store-0`, `inference-0`, `gateway-0`, …"""

    settings: Settings
    view: View
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def rooms(self) -> dict[str, Room]:
        """The rooms that run, by member id."""
        return {member_id: running.room for member_id, running in self.running.items()}

    @property
    def gateway(self) -> GatewayRoom:
        """The first gateway."""
        return self.gateway_room(0)

    def gateway_room(self, number: int) -> GatewayRoom:
        """A gateway by its number."""
        room = self.rooms[f"{GATEWAY}-{number}"]
        assert isinstance(room, GatewayRoom)
        return room

    def generating(self) -> list[str]:
        """The replicas that generate now, by member id."""
        replicas = [(each, room) for each, room in self.rooms.items() if isinstance(room, InferenceRoom)]
        return [member_id for member_id, room in replicas if room.engine is not None and room.engine.running]

    @property
    def grpc_target(self) -> str:
        """Where the first gateway's gRPC edge listens."""
        return self.gateway.address

    @property
    def http_url(self) -> str:
        """The first gateway's HTTP edge, without a path."""
        return f"http://{self.gateway.http_address}"

    async def add(self, make: Callable[[RoomContext], Room], member_id: str, settings: Settings | None = None) -> Room:
        """Starts a room; its address is free and its HTTP edge, if it has one, too."""
        context = RoomContext(settings or self.settings, member_id, _ANY_PORT, _ANY_PORT)
        room = make(context)
        self.running[member_id] = Running(room, context.lifecycle)
        await room.start()
        return room

    async def add_shard(self, number: int) -> Room:
        """Starts a shard."""
        return await self.add(ContextStoreRoom, f"{STORE}-{number}")

    async def add_replica(self, number: int, settings: Settings | None = None) -> Room:
        """Starts a replica, with settings of its own if given."""
        return await self.add(InferenceRoom, f"{INFERENCE}-{number}", settings)

    async def add_gateway(self, number: int, settings: Settings | None = None) -> GatewayRoom:
        """Starts a gateway, with settings of its own if given."""
        room = await self.add(GatewayRoom, f"{GATEWAY}-{number}", settings)
        assert isinstance(room, GatewayRoom)
        return room

    async def remove(self, member_id: str, *, drain: bool = False) -> None:
        """Stops a room: at once, what it was doing is cancelled; or drained first."""
        running = self.running.pop(member_id)
        if drain:
            await running.room.drain()
        await running.room.stop()

    async def settled(self, room: str, count: int) -> None:
        """Waits until the mesh sees this many ready members of a room."""
        await eventually(lambda: len(self.view.ready(room)) == count, message=f"{count} members of {room}")


def changed(settings: Settings, section: str, **values: object) -> Settings:
    """The settings with some values of one section replaced."""
    replaced = type(getattr(settings, section)).model_validate(getattr(settings, section).model_dump() | values)
    return settings.model_copy(update={section: replaced})


@asynccontextmanager
async def running_mesh(
    settings: Settings, shards: int = 2, replicas: int = 1, *, gateways: int = 1, compressors: int = 0
) -> AsyncIterator[Mesh]:
    """A mesh whose gateways have seen all shards and replicas. Set `inference.engine` to what the test needs."""
    # Turns have trace ids, and a test may look at the spans.
    recorder()
    async with AsyncExitStack() as closing:
        valkey = connect(settings.valkey)
        closing.push_async_callback(valkey.aclose)
        view = View(valkey, settings.membership)
        await view.start()
        closing.push_async_callback(view.stop)
        mesh = Mesh(settings, view)
        closing.push_async_callback(_stop, mesh)
        for number in range(shards):
            await mesh.add_shard(number)
        for number in range(replicas):
            await mesh.add_replica(number)
        await mesh.settled(STORE, shards)
        await mesh.settled(INFERENCE, replicas)
        for number in range(compressors):
            await mesh.add(CompressorRoom, f"{COMPRESSOR}-{number}")
        for number in range(gateways):
            await mesh.add_gateway(number)
        yield mesh


async def _stop(mesh: Mesh) -> None:
    """The door first, so that nothing is asked of rooms that are gone."""
    for member_id in reversed(list(mesh.running)):
        await mesh.remove(member_id)
